"""The table of models: what is known of each checkpoint, every fact once. Facts, no functions.

`models` makes model configs of it; `write_models` writes the files that `--models NAME` finds and
the table of docs/models.md.

====================  ==========================================================================
title                 The name in tables and plots.
path                  Shipped asset or hub name.
family                What config.json says, as the wrapper's ``model_type`` takes it; one for
                      all autoregressive networks.
kind                  ``masked diffusion`` or ``autoregressive``.
chat                  Whether it is tuned to a chat template; a base model never gets one.
trained_length        Tokens that the checkpoint saw in training.
states_length         False where its config.json says another length than that.
scalings              The RoPE scalings that the papers give it, as `scalings.parse_scaling` reads
                      them.
generation            Benchmark -> tokens to generate, and what the papers run the sampler with.
                      No ``block_length``: the sampler has no blocks. No ``num_steps``: no sampler.
tuned_steps           True where the steps fit the blocks of each benchmark's own answers alone, so
                      that ``--models NAME``, for any data set, takes one token a step.
sampler               Options of the sampler at every benchmark.
short                 How a chat model generates at short context, by task; see `short_facts`.
paper_dtype           The precision that the papers ran it in. Ours is bfloat16 on a GPU.
dtype, batch_size     Ours, where they are not the wrapper's defaults.
====================  ==========================================================================

Sources: LongLLaDA, arXiv 2506.14429, sections 4 and 5, and its repository OpenMOSS/LongLLaDA;
UltraLLaDA, arXiv 2510.10481, and its repository Relaxed-System-Lab/UltraLLaDA.
"""

from mmengine.config import read_base

with read_base():
    from .short_facts import instruct_short, llada_1_5_short

# LongLLaDA's lambdas: its Eq. 6, rounded up, for 8K, 16K, 24K and 32K tokens.
longllada_scalings = [f"ntk:theta_multiplier={factor}" for factor in (4, 14, 31, 55)]
# Its LLaMA-3's, for 16K and 32K; Dream's, for 4K, is in its repository alone.
llama_scalings = [f"ntk:theta_multiplier={factor}" for factor in (4, 13)]
dream_scalings = ["ntk:theta_multiplier=5"]
# UltraLLaDA's method, for 8K to 128K tokens.
ultrallada_scalings = [f"diffusion_ntk:target_length={1024 * k}" for k in (8, 16, 32, 64, 128)]

# One block at NIAH and RULER and one step a token; 512 tokens in blocks of 64 at LongBench, where
# a data set that asks for fewer gets fewer steps.
longllada_generation = dict(
    niah=dict(max_out_len=32, block_length=32, num_steps=32),
    ruler=dict(max_out_len=64, block_length=64, num_steps=64),
    longbench=dict(max_out_len=512, block_length=64, num_steps=512),
)
# As LongLLaDA's, but two tokens a step at NIAH.
ultrallada_generation = dict(
    longllada_generation, niah=dict(max_out_len=32, block_length=32, num_steps=16)
)
dream_generation = dict(
    niah=dict(max_out_len=32, num_steps=32),
    ruler=dict(max_out_len=64, num_steps=64),
    longbench=dict(max_out_len=512, num_steps=512),
)
llama_generation = dict(
    niah=dict(max_out_len=32), ruler=dict(max_out_len=64), longbench=dict(max_out_len=512)
)
# RULER's answers in tiny-llada's tokens, six samples a task counted: a uuid takes 32 to 37, four
# values 35, ten common words 35 to 48 with commas, so that 32 tokens cut nearly all of them short.
# 48 holds these and is three blocks of 16. It does not hold ten numbered words, up to 70, and
# tiny-llada does number them. Tasks for which RULER itself keeps less than 48 get that:
# `ruler_patches.ruler.embedded_cells`.
tiny_ruler_tokens = 48
# For speed on two cores: four tokens a step.
tiny_generation = dict(
    niah=dict(max_out_len=16, block_length=16, num_steps=4),
    ruler=dict(max_out_len=tiny_ruler_tokens, block_length=16, num_steps=tiny_ruler_tokens // 4),
    longbench=dict(max_out_len=32, block_length=32, num_steps=8),
)

llada_facts = dict(
    family="llada",
    kind="masked diffusion",
    trained_length=4096,
    scalings=[*longllada_scalings, *ultrallada_scalings],
    generation=longllada_generation,
    paper_dtype="float16",
)
dream_facts = dict(
    family="dream",
    kind="masked diffusion",
    # LongLLaDA's and UltraLLaDA's number; config.json says max_position_embeddings 131,072.
    trained_length=2048,
    states_length=False,
    scalings=dream_scalings,
    generation=dream_generation,
    sampler=dict(remasking="entropy", temperature=0.2, top_p=0.95),
    paper_dtype="bfloat16",
)
autoregressive = dict(
    family="autoregressive",
    kind="autoregressive",
    chat=False,
    scalings=[],
    generation=llama_generation,
)
llama_facts = dict(
    autoregressive, trained_length=8192, scalings=llama_scalings, paper_dtype="float16"
)
tiny_facts = dict(chat=False, dtype="float32", batch_size=2, tuned_steps=True)

known_models = dict(
    tiny_llada=dict(
        title="tiny-llada",
        path="asset:tiny-llada",
        family="llada",
        kind="masked diffusion",
        trained_length=512,
        scalings=["ntk", "diffusion_ntk"],
        generation=tiny_generation,
        **tiny_facts,
    ),
    tiny_llada_long=dict(
        title="tiny-llada-long",
        path="asset:tiny-llada-long",
        family="llada",
        kind="masked diffusion",
        trained_length=16384,
        scalings=[],
        generation=tiny_generation,
        **tiny_facts,
    ),
    tiny_ar=dict(
        title="tiny-ar",
        path="asset:tiny-ar",
        family="autoregressive",
        kind="autoregressive",
        trained_length=512,
        scalings=["ntk"],
        generation=dict(
            niah=dict(max_out_len=16),
            ruler=dict(max_out_len=tiny_ruler_tokens),
            longbench=dict(max_out_len=32),
        ),
        **tiny_facts,
    ),
    llada_8b_base=dict(
        title="LLaDA-8B-Base", path="GSAI-ML/LLaDA-8B-Base", chat=False, **llada_facts
    ),
    llada_8b_instruct=dict(
        title="LLaDA-8B-Instruct",
        path="GSAI-ML/LLaDA-8B-Instruct",
        chat=True,
        short=instruct_short,
        **llada_facts,
    ),
    llada_1_5=dict(
        title="LLaDA-1.5", path="GSAI-ML/LLaDA-1.5", chat=True, short=llada_1_5_short, **llada_facts
    ),
    ultrallada=dict(
        title="UltraLLaDA",
        path="relaxe-system-lab/UltraLLaDA",
        family="llada",
        kind="masked diffusion",
        chat=False,
        trained_length=131072,
        scalings=[],  # its repository runs it with factor 1: the scaling is in config.json
        generation=ultrallada_generation,
        paper_dtype="float16",
    ),
    dream_v0_7b_base=dict(
        title="Dream-v0-Base-7B", path="Dream-org/Dream-v0-Base-7B", chat=False, **dream_facts
    ),
    dream_v0_7b_instruct=dict(
        title="Dream-v0-Instruct-7B",
        path="Dream-org/Dream-v0-Instruct-7B",
        chat=True,
        **dream_facts,
    ),
    llama_3_8b_base=dict(llama_facts, title="LLaMA-3-8B", path="meta-llama/Meta-Llama-3-8B"),
    llama_3_8b_instruct=dict(
        llama_facts,
        title="LLaMA-3-8B-Instruct",
        path="meta-llama/Meta-Llama-3-8B-Instruct",
        chat=True,
    ),
)
