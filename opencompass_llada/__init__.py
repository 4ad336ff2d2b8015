"""Long-context evaluation and post-training of masked diffusion language models in OpenCompass.

Holds the version and nothing else: importing the package loads neither torch nor OpenCompass.
"""

import sys

from opencompass_llada.old_names import OldNames

__version__ = "0.2.0"

sys.meta_path.append(OldNames())  # behind all other finders
