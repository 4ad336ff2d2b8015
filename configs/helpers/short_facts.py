"""Short-context benchmarks of LLaDA's own evaluation: settings as published. Facts, no functions.

Source: github.com/ML-GSAI/LLaDA, EVAL.md (answer and block lengths, guidance, the two options on
end tokens) and eval_llada_lm_eval.sh (draws, examples); one denoising step a token throughout. No
classifier-free guidance, as in Table 1 of the paper (arXiv 2502.09992).
"""

# Tasks of a base model: four generate, the others choose by likelihood.
generation_tasks = ("gsm8k", "math", "humaneval", "mbpp")
likelihood_tasks = ("mmlu", "arc_c", "hellaswag", "winogrande")
# Chat models generate all answers; there is no published setting for Winogrande.
chat_tasks = (*generation_tasks, "mmlu", "arc_c", "hellaswag")
code_tasks = ("humaneval", "mbpp")  # they run what the model writes

# LLaDA-8B-Base in OpenCompass. Its Table 1 has 1,024 of each, and scores within 3 points of these.
base_short = dict(max_out_len=256, block_length=256, num_steps=256)
# Where a base model goes on with a next example of its own.
base_stops = dict(
    gsm8k=["Question:"],
    math=["Problem:"],
    mbpp=["[DONE]"],
    # lm-evaluation-harness's for HumanEval: what cannot be part of the function.
    humaneval=["\nclass", "\ndef", "\n#", "\nif", "\nprint"],
)
# Masks drawn for an option (mc_num); MMLU's single letter takes one pass, there and here.
likelihood_draws = 128
# The usual number for these two, lm-evaluation-harness's acc_norm; it counts characters.
likelihood_per = dict(arc_c="byte", hellaswag="byte")

last_ends = dict(suppress_eos_eot_confidence=True)  # confidence_eos_eot_inf
no_end = dict(suppress_eos_logits=True)  # logits_eos_inf
# LLaDA-8B-Instruct, pure diffusion sampling: the paper's Tables 1 and 2.
instruct_short = dict(
    gsm8k=dict(max_out_len=512, block_length=512, num_steps=512, **last_ends),
    math=dict(max_out_len=512, block_length=512, num_steps=512, **last_ends),
    humaneval=dict(max_out_len=512, block_length=512, num_steps=512, **no_end),
    mbpp=dict(max_out_len=256, block_length=256, num_steps=256, **last_ends),
    mmlu=dict(max_out_len=3, block_length=3, num_steps=3),
    arc_c=dict(max_out_len=512, block_length=512, num_steps=512),
    hellaswag=dict(max_out_len=3, block_length=3, num_steps=3),
)
llada_1_5_short = dict(
    gsm8k=dict(max_out_len=256, block_length=16, num_steps=256, **last_ends),
    math=dict(max_out_len=1024, block_length=128, num_steps=1024, **last_ends),
    humaneval=dict(max_out_len=512, block_length=32, num_steps=512, **last_ends),
    mbpp=dict(max_out_len=512, block_length=32, num_steps=512, **last_ends),
    # Not published for LLaDA-1.5; LLaDA-8B-Instruct's.
    mmlu=instruct_short["mmlu"],
    arc_c=instruct_short["arc_c"],
    hellaswag=instruct_short["hellaswag"],
)
# Published by the same page; what to expect, percent. OpenCompass's row where there is one, else
# lm-evaluation-harness's without guidance.
published_short = dict(
    llada_8b_base=dict(
        gsm8k=71.9, math=30.7, humaneval=34.1, mbpp=38.8,
        mmlu=65.9, arc_c=45.9, hellaswag=70.5, winogrande=74.8,
    ),
    llada_8b_instruct=dict(
        gsm8k=68.8, math=29.6, humaneval=47.0, mbpp=39.6, mmlu=65.4, arc_c=89.2, hellaswag=75.3
    ),
    llada_1_5=dict(gsm8k=83.6, math=42.3, humaneval=51.2, mbpp=42.6),
)  # fmt: skip
# The sample set that comes with the package, for tiny models: the way through, no measurement.
embedded_tasks = ("gsm8k", "math", *likelihood_tasks)
embedded_short = dict(max_out_len=16, block_length=16, num_steps=4)
embedded_draws = 4
