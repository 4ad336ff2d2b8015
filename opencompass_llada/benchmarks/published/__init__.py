r"""OpenCompass's own long suites through this package: what they share, so that each is small.

A suite has a folder beside this one with three files and a config in configs/datasets. Loader and
metric stay OpenCompass's; what is added is offline data, a base-model prompt, lengths by any
tokenizer, floors and a plan. ``facts.py`` (imports no OpenCompass)::

    SUITE = Suite(
        name="toy", title="Toy", source="Toy (arXiv 0000.00000)",
        tasks={"one": 32},                        # task -> tokens of an answer
        path="opencompass/toy", folder="data/toy",
        fetch="hf download opencompass/toy --repo-type dataset --local-dir FOLDER",
        find_files=lambda cell: [f"{cell['task']}.jsonl"],
        dataset="toy.dataset.ToyDataset", evaluator="toy.dataset.ToyEvaluator",
    )
    BENCHMARKS = (SUITE.benchmark(),)

``dataset.py``::

    class ToyDataset(SuiteDataset):
        suite = SUITE

        @classmethod
        def read_samples(cls, options, folder):   # as published
            for where, row in read_json_lines(folder / f"{options.task}.jsonl"):
                prompt = stock.write_prompt(row)              # OpenCompass's wording
                yield SuiteSample(
                    parts=cut_prompt(prompt, "<text>\n", "\n</text>"),
                    begins="\nAnswer:", gold=row["answer"], columns={"answer": row["answer"]},
                )

        @classmethod
        def write_embedded(cls, folder):          # a few, in the published layout (texts.py)
            write_json_lines(folder / "one.jsonl", [...])

    class ToyEvaluator(SuiteEvaluator):
        def score_answer(self, prediction, sample):           # 0 to 100, by the stock metric
            return 100 * stock.f1(prediction, sample["answer"])

``plan.py``::

    PLAN, DATA_SETS = plan_suite(SUITE)

A base-model prompt is the chat prompt and ``begins``. Where the end of that is part of the answer
(MRCR's letters, a box), it is ``given``, too: the metric is shown it before what the model wrote.
Where a stock class fetches or counts by itself, `standing_in` puts local rows or another tokenizer
in the place of what it calls.
"""
