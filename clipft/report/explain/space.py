"""What happens where the towers meet: similarity, logit_scale, alignment."""

from __future__ import annotations

import math

from clipft.model.anatomy import Anatomy, scores_apart
from clipft.report.amounts import grouped
from clipft.report.explain.explanation import Explanation, paragraphs

_BATCH = 64  # the default of train.batch_size
_START, _MOST = 1 / 0.07, 100.0  # CLIP, section 2.5
_APART = 0.05  # of two cosines


def similarity(model: Anatomy) -> Explanation:
    """Cosine, logits, and what the loss makes of a batch."""
    sigmoid = model.facts.logit_bias is not None
    width = grouped(model.facts.image.embed_dim)
    plus = ", plus logit_bias," if sigmoid else ""
    return Explanation(
        paragraphs(f"""
            Each tower ends in {width} numbers, which are divided by their length. What is left is a direction, and
            the dot product of two directions is their cosine: 1 the same, 0 unrelated, -1 opposite. Times
            exp(logit_scale){plus} it is the logit, and logits are all that a loss sees.

            {_SIGMOID if sigmoid else _SOFTMAX}

            To classify without training, each class becomes a text (a photo of a dog), and an image belongs to the
            nearest. Only the order of the cosines matters then, not how large they are: images and texts lie in two
            separate regions of the space even in a good model (Mind the Gap, Liang et al., 2022).
        """)
    )


_SOFTMAX = f"""
    In training a batch of {_BATCH} pairs gives {_BATCH} x {_BATCH} logits. A softmax over each row asks which text
    belongs to the image, one over each column the reverse (CLIP, section 2.3). Guessing costs ln {_BATCH} =
    {math.log(_BATCH):.2f}, and a pretrained model starts below that. A larger batch has more wrong answers to tell
    apart.
"""
_SIGMOID = f"""
    This model has a logit_bias: it was made for the sigmoid loss, which asks of each pair alone whether it matches.
    Of the {_BATCH} x {_BATCH} pairs in a batch, {_BATCH} match and {grouped(_BATCH * (_BATCH - 1))} do not, so the
    bias starts low (SigLIP, Zhai et al., 2023, section 3.2).
"""


def logit_scale(model: Anatomy) -> Explanation:
    """What multiplies the cosines, and what a larger one does."""
    facts = model.facts
    value, scale = facts.logit_scale, math.exp(facts.logit_scale)
    whose = "the value it starts from, since no weights are loaded" if facts.initial else "as the weights have it"
    bias = "" if facts.logit_bias is None else f"logit_bias, here {facts.logit_bias:g}, is added to the product."
    apart = _odds if facts.logit_bias is not None else _probable
    return Explanation(
        paragraphs(f"""
            logit_scale is one number, the logarithm of what cosines are multiplied by. Here it is {value:.3f}, and
            exp({value:.3f}) = {scale:.2f} ({whose}). {bias}

            {apart(scale)}

            CLIP starts at ln(1/0.07) = {math.log(_START):.3f} and holds it below ln 100 = {math.log(_MOST):.3f}
            (section 2.5), which OpenAI's weights reached. It is the inverse of a temperature: large is sure, small is
            doubtful.

            It never changes which text is nearest: training it alone leaves every accuracy as it was and moves how
            sure the answers are. It gets no weight decay, and is held between model.logit_scale.min and max after
            each step. A fall toward 1 is a sign that the learning rate is far too high.
        """)
    )


def _probable(scale: float) -> str:
    return f"""
            Cosines of right and wrong texts lie close together, and a softmax would call them equal. Multiplied by
            {scale:.2f}, a text whose cosine is {_APART} higher is {scores_apart(scale, _APART):.2f} times as
            probable; by {_MOST:.0f}, {scores_apart(_MOST, _APART):.0f} times.
    """


def _odds(scale: float) -> str:
    return f"""
            Cosines of right and wrong texts lie close together, and a sigmoid would call them equal. Multiplied by
            {scale:.2f}, a cosine {_APART} higher makes the odds of a match {scores_apart(scale, _APART):.2f} times as
            large; by {_MOST:.0f}, {scores_apart(_MOST, _APART):.0f} times.
    """


def alignment(model: Anatomy) -> Explanation:
    """Why the two towers fit each other, and how that is lost."""
    image, text = model.facts.image, model.facts.text
    sizes = {tower: grouped(model.size(tower)) for tower in ("image", "text")}
    return Explanation(
        paragraphs(f"""
            The two towers ({image.family}; {text.family}) share no weights. What ties them together is that both end
            in {grouped(image.embed_dim)} numbers, and that they were trained until an image and its own text pointed
            the same way. That agreement is the alignment: it is what a CLIP model knows.

            It takes both sides. A tower that moves far no longer agrees with the other but on what it was trained
            with: the classes in your data improve, others tend to get worse. A tower that is frozen stays as an
            anchor: what the other one learns must still point to the same places.

            Here the image tower has {sizes["image"]} parameters, the text tower {sizes["text"]}. For new pictures and
            known words, train the image side and keep the text; for known pictures and new words the reverse (LiT,
            CVPR 2022, teaches a text tower to read a locked image tower).

            Two encoders that never met have no alignment: the projections between them are drawn at random, and until
            they are trained no comparison means anything.
        """)
    )
