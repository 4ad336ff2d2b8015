"""Training of masked diffusion language models; runs without OpenCompass.

``python -m opencompass_llada.finetune RECIPE.yaml [key=value ...]``
"""
