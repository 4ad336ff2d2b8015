"""What the papers' own evaluation configs run. Facts, no functions.

``models``: names of `model_facts`. ``lambdas``: how many of a family's ntk scalings are run besides
none, the smallest first. ``steps``: unscaled, with other numbers of steps besides the default.
``num_steps``: the default, where it is not the models' own. ``add_bos``: families whose prompts the
repository's wrapper begins with the tokenizer's BOS: Dream's where nothing is cut in the middle.
``settings``: those of the benchmark's run. Read from OpenMOSS/LongLLaDA, llada/llada_wrapper.py and
eval/eval_llada_{niah,ruler,long}.py, and Relaxed-System-Lab/UltraLLaDA,
eval/opencompass-0.4.2/opencompass/eval/.
"""

from mmengine.config import read_base

with read_base():
    from ...needlebench.niah import longllada_lengths, ultrallada_lengths
    from .model_facts import ultrallada_generation

# What both repositories pass to every model.
paper_seed = 2025

longllada_models = (
    "llama_3_8b_base",
    "llama_3_8b_instruct",
    "llada_8b_base",
    "llada_8b_instruct",
    "llada_1_5",
    "dream_v0_7b_base",
    "dream_v0_7b_instruct",
)
# The repository's model list holds the base model; UltraLLaDA stands there as a comment.
ultrallada_models = ("llada_8b_base", "ultrallada")

niah_settings = dict(
    data="needlebench", language="en", prompt="base", tokenizer="gpt-4", repeats=10
)
ruler_settings = dict(data="ruler", prompt="base", tokenizer="gpt-4", samples=100, fwe="published")
# OpenCompass's prompts and answer lengths, the latter rounded up to a whole block.
longbench_settings = dict(
    data="longbench", benchmark="longbench", wording="opencompass", output_lengths="repositories"
)

papers = dict(
    longllada=dict(
        niah=dict(
            models=longllada_models,
            lambdas=dict(autoregressive=2, llada=4, dream=1),
            steps=dict(llada=(1, 2, 4, 8, 16), dream=(1, 8, 16)),
            add_bos=("dream",),
            settings=dict(niah_settings, lengths=list(longllada_lengths)),
        ),
        ruler=dict(
            models=longllada_models,
            lambdas=dict(autoregressive=2, llada=3, dream=1),
            add_bos=("dream",),
            settings=dict(ruler_settings, lengths=[4096, 8192, 16384]),
        ),
        longbench=dict(
            models=longllada_models,
            lambdas=dict(autoregressive=0, llada=1, dream=1),
            settings=dict(longbench_settings, lengths=[3500, 7500]),
        ),
    ),
    ultrallada=dict(
        niah=dict(
            models=ultrallada_models,
            lambdas=dict(llada=0),
            num_steps=ultrallada_generation["niah"]["num_steps"],
            settings=dict(niah_settings, lengths=list(ultrallada_lengths)),
        ),
        ruler=dict(
            models=ultrallada_models,
            lambdas=dict(llada=0),
            # The repository's configs are OpenCompass's with their answer turn. They run 16K and
            # 32K; the paper's Table 3 has four lengths.
            settings=dict(ruler_settings, prompt="opencompass", lengths=[4096, 8192, 16384, 32768]),
        ),
        longbench=dict(
            models=ultrallada_models,
            lambdas=dict(llada=0),
            settings=dict(longbench_settings, lengths=[16000]),
        ),
    ),
)
