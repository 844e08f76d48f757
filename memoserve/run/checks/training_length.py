"""Does a suite say one thing about how much was trained on?"""

from __future__ import annotations

from memoserve.checks import Check
from memoserve.suites import Suite


def check_training_length(suite: Suite) -> Check:
    """Hold its latest step times its batch size against the sequences that it trained on.

    More can't have been read than there were, where held-out sequences follow them: budgets, and what each
    checkpoint has seen, would be wrong. Without a control range `trained` may be a part of what training
    read, and less is read where a suite leaves out the latest steps: warnings. The figure is the product.
    """
    step, batch, trained = suite.steps[-1], suite.batch_size, suite.sequences.trained
    read = step * batch
    summary = (
        f"step {step} has read {step:,} x {batch:,} = {read:,} sequences; the suite trained on {trained:,}"
    )
    name = "training length"
    if read >= trained + batch:
        advice = "batch_size, steps or trained is wrong"
        if suite.sequences.control is not None:
            return Check(name, suite.name, "failed", f"{summary}: {advice}: correct the suite file", read)
        advice = f"right if these are a part of what training read, else {advice}"
        return Check(name, suite.name, "warning", f"{summary}: {advice}", read)
    if read <= trained - batch:
        advice = "right if the suite leaves out the end of the training, else batch_size or trained is wrong"
        return Check(name, suite.name, "warning", f"{summary}: {advice}", read)
    return Check(name, suite.name, "passed", summary, read)
