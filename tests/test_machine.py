"""Counting GPUs and choosing devices without a GPU to try them on."""

import os
from unittest import mock

import pytest
import torch
from mmengine.config import Config

from opencompass_llada.devices import choose_device, choose_dtype
from opencompass_llada.runs import machine


def count_gpus(variables):
    """Count with these variables and no CUDA_VISIBLE_DEVICES but in them."""
    with mock.patch.dict(os.environ):
        os.environ.pop("CUDA_VISIBLE_DEVICES", None)
        os.environ.update(variables)
        return machine.count_gpus()


GPUS = [
    "GPU 0: NVIDIA H100 80GB HBM3 (UUID: GPU-aaaa1111-0000)",
    "GPU 1: NVIDIA H100 80GB HBM3 (UUID: GPU-bbbb2222-0000)",
]


@pytest.mark.parametrize(
    ("visible", "count"),
    [
        (None, 2),
        ("", 0),
        ("0", 1),
        ("0,1", 2),
        ("1, 0", 2),
        ("-1", 0),
        ("0,-1,1", 1),
        ("0,7", 1),
        ("GPU-aaaa1111-0000", 1),
        ("GPU-aaaa1111-0000,GPU-bbbb2222-0000", 2),
        ("MIG-cccc", 1),
    ],
)
def test_visible_devices_are_counted_as_cuda_reads_them(monkeypatch, visible, count):
    monkeypatch.setattr(machine, "list_gpus", lambda: GPUS)
    environment = {} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}
    assert count_gpus(environment) == count


def test_without_nvidia_smi_there_is_no_gpu(monkeypatch, tmp_path):
    monkeypatch.setattr(machine.shutil, "which", lambda _: None)
    monkeypatch.setattr(machine, "DRIVER", tmp_path / "gpus")
    assert machine.list_gpus() == []
    assert count_gpus({}) == 0
    for visible in ("0", "99", "GPU-nothing", "MIG-nothing", "\u00b2"):
        assert count_gpus({"CUDA_VISIBLE_DEVICES": visible}) == 0


def test_without_nvidia_smi_the_drivers_list_counts(monkeypatch, tmp_path):
    monkeypatch.setattr(machine.shutil, "which", lambda _: None)
    monkeypatch.setattr(machine, "DRIVER", tmp_path)
    for number, uuid in enumerate(("aaaa", "bbbb")):
        (tmp_path / f"0000:0{number}:00.0").mkdir()
        text = f"Model: \t\t NVIDIA H100\nGPU UUID: \t GPU-{uuid}\n"
        (tmp_path / f"0000:0{number}:00.0" / "information").write_text(text)
    assert machine.list_gpus()[1] == "GPU 1: NVIDIA H100 (UUID: GPU-bbbb)"
    for visible, count in (("0,1", 2), ("GPU-bbbb", 1), ("GPU-cccc", 0), ("2", 0)):
        assert count_gpus({"CUDA_VISIBLE_DEVICES": visible}) == count


def fake_nvidia_smi(tmp_path, monkeypatch, lines, status=0):
    script = tmp_path / "nvidia-smi"
    body = "\n".join(f"echo '{line}'" for line in lines)
    script.write_text(f"#!/bin/sh\n{body}\nexit {status}\n")
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")


def test_nvidia_smi_is_asked(tmp_path, monkeypatch):
    fake_nvidia_smi(tmp_path, monkeypatch, GPUS)
    assert count_gpus({}) == 2
    fake_nvidia_smi(tmp_path, monkeypatch, ["No devices were found"])
    assert count_gpus({}) == 0
    fake_nvidia_smi(tmp_path, monkeypatch, GPUS, status=9)
    assert count_gpus({}) == 0


def test_instances_of_a_split_gpu_count_instead_of_it(tmp_path, monkeypatch):
    lines = [GPUS[0], "  MIG 1g.10gb Device 0: (UUID: MIG-1)", "  MIG 1g.10gb Device 1: (UUID: M)"]
    fake_nvidia_smi(tmp_path, monkeypatch, lines)
    assert count_gpus({}) == 2


def test_ids_become_indices_for_the_local_runner():
    assert machine.visible_devices_as_indices("GPU-bbbb2222,0", GPUS) == "1,0"
    assert machine.visible_devices_as_indices("GPU-", GPUS) == "GPU-", "ambiguous stays"
    assert machine.visible_devices_as_indices("GPU-ffff", GPUS) == "GPU-ffff"


def test_a_config_counts_them_for_real_and_dumps_the_number(tmp_path, monkeypatch, repository_root):
    fake_nvidia_smi(tmp_path, monkeypatch, GPUS)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    (tmp_path / "helpers").mkdir()
    source = repository_root / "configs" / "helpers" / "planning.py"
    (tmp_path / "helpers" / "planning.py").write_text(source.read_text())
    config = tmp_path / "config.py"
    config.write_text(
        "from mmengine.config import read_base\n"
        "with read_base():\n"
        "    from .helpers.planning import count_gpus as __count_gpus\n"
        "num_gpus = __count_gpus()\n"
    )
    assert Config.fromfile(str(config)).dump().strip() == "num_gpus = 2"


def test_automatic_device_and_dtype(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device(None) == torch.device("cpu")
    assert choose_dtype(None, torch.device("cpu")) == torch.float32
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert choose_device("auto") == torch.device("cuda")
    assert choose_dtype("auto", torch.device("cuda")) == torch.bfloat16
    assert choose_device("cuda:1") == torch.device("cuda:1")


@pytest.mark.parametrize("name", ["torch.float16", "float16", "fp16", torch.float16])
def test_dtypes_are_taken_by_every_name_a_config_may_hold(name):
    assert choose_dtype(name, torch.device("cpu")) == torch.float16


SLURM = {
    "SLURM_JOB_ID": "12", "SLURM_STEP_ID": "0", "SLURM_ARRAY_JOB_ID": "9",
    "SLURM_ARRAY_TASK_ID": "3", "SLURMD_NODENAME": "n1", "SLURM_RESTART_COUNT": "1",
}  # fmt: skip
POD = {"KUBERNETES_SERVICE_HOST": "10.0.0.1", "HOSTNAME": "niah-4-abcde"}


@pytest.mark.parametrize(
    ("variables", "told"),
    [
        ({}, ""),
        (SLURM, "Slurm job 12, array 9 index 3, node n1, restart 1"),
        ({"SLURM_JOB_ID": "12"}, "Slurm job 12"),
        ({**POD, "JOB_COMPLETION_INDEX": "4"}, "Kubernetes pod niah-4-abcde, index 4"),
        (POD, "Kubernetes pod niah-4-abcde"),
        ({"HOSTNAME": "laptop"}, ""),
    ],
)
def test_the_job_of_a_process_is_described(variables, told):
    with mock.patch.dict(os.environ, variables, clear=True):
        assert machine.write_job(machine.describe_job()) == told


@pytest.mark.parametrize(
    ("variables", "cores"),
    [
        ({}, 16),
        ({"SLURM_CPUS_ON_NODE": "4"}, 16),
        ({"SLURM_JOB_ID": "1", "SLURM_CPUS_ON_NODE": "8", "SLURM_CPUS_PER_TASK": "2"}, 8),
        ({"SLURM_JOB_ID": "1", "SLURM_STEP_ID": "0", "SLURM_CPUS_ON_NODE": "8"}, 8),
        ({"SLURM_JOB_ID": "1", "SLURM_STEP_ID": "0", "SLURM_CPUS_ON_NODE": "8",
          "SLURM_CPUS_PER_TASK": "2"}, 2),
        ({"SLURM_JOB_ID": "1", "SLURM_CPUS_ON_NODE": "64"}, 16),
    ],
)  # fmt: skip
def test_cores_are_those_that_slurm_gave(variables, cores, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: range(16), raising=False)
    with mock.patch.dict(os.environ, variables, clear=True):
        assert machine.count_cores() == cores


def test_file_systems_of_one_node_are_told_from_shared_ones(tmp_path):
    mounts = tmp_path / "mounts"
    mounts.write_text(
        "/dev/sda1 / ext4 rw 0 0\n"
        "nas:/home /home nfs4 rw 0 0\n"
        "tmpfs /home/me/my\\040scratch tmpfs rw 0 0\n"
        "mgs@tcp:/work /work lustre rw 0 0\n"
    )
    places = {
        "/data/runs": "ext4", "/homes/x": "ext4", "/home/me": None,
        "/home/me/my scratch/x": "tmpfs", "/work": None,
    }  # fmt: skip
    assert {path: machine.node_local_type(path, mounts) for path in places} == places
    assert machine.node_local_type("/data", tmp_path / "none") is None
