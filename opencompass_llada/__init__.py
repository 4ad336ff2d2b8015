"""Long-context evaluation and post-training of masked diffusion language models in OpenCompass.

Holds the version and nothing else: importing the package loads neither torch nor OpenCompass.
"""

from opencompass_llada import old_names

__version__ = "0.2.0"

old_names.install()
