"""Reads what torch.distributed.checkpoint writes, without running code that a file names."""

from __future__ import annotations

import io
import pickle
import zipfile
from pathlib import Path
from typing import IO, Any

import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.metadata import Metadata, StorageMeta

METADATA = ".metadata"
#: All that torch's list of a state is made of, beside dtypes; nothing else is unpickled.
_CLASSES = {
    "torch.distributed.checkpoint.metadata": {
        *("Metadata", "MetadataIndex", "StorageMeta", "TensorProperties", "_MEM_FORMAT_ENCODING"),
        *("TensorStorageMetadata", "ChunkStorageMetadata", "BytesStorageMetadata"),
    },
    "torch.distributed.checkpoint.filesystem": {"_StorageInfo"},
    "torch.serialization": {"_get_layout"},
    "torch": {"Size"},
    "collections": {"OrderedDict"},
    "pathlib": {"PosixPath", "WindowsPath"},
}


class SafeUnpickler(pickle.Unpickler):
    """Knows the classes of a state's list of tensors, and runs nothing else that a file names."""

    def find_class(self, module: str, name: str) -> Any:
        """Return a class of the list; an `UnpicklingError` names any other."""
        module = "pathlib" if module.startswith("pathlib.") else module  # Python 3.13's
        known = name in _CLASSES.get(module, ())
        if known or (module == "torch" and isinstance(getattr(torch, name, None), torch.dtype)):
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"{module}.{name} does not belong into a training state")


class SafeReader(dcp.FileSystemReader):
    """Reads what torch.distributed.checkpoint wrote, with its checksums, and runs no code."""

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        """Return the list of tensors; an `UnpicklingError` if it holds anything else."""
        with (Path(self.path) / METADATA).open("rb") as file:
            metadata = SafeUnpickler(file).load()
        if not isinstance(metadata, Metadata):
            raise pickle.UnpicklingError(f"{METADATA} holds a {type(metadata).__name__}")
        metadata.storage_meta = metadata.storage_meta or StorageMeta()
        metadata.storage_meta.load_id = self.load_id
        return metadata

    def _slice_file(self, file: Any, sinfo: Any) -> IO[bytes]:
        """Return one stored value, a zip file; torch reads it without comparing its checksums."""
        part = io.BytesIO(super()._slice_file(file, sinfo).read(sinfo.length))
        with zipfile.ZipFile(part) as stored:
            if (damaged := stored.testzip()) is not None:
                raise zipfile.BadZipFile(f"{sinfo.relative_path}: {damaged} is damaged")
        part.seek(0)
        return part
