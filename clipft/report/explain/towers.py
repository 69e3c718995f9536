"""What a tower is made of: blocks, embeddings, projection, pooling, QuickGELU."""

from __future__ import annotations

from math import prod

from clipft.model.anatomy import Anatomy, quick_gelu_gap
from clipft.model.facts import TowerFacts
from clipft.model.plan import block_number
from clipft.report.amounts import grouped, share
from clipft.report.explain.explanation import Explanation, Table, by, listing, paragraphs

# --- block ---------------------------------------------------------------------------------------


def block(model: Anatomy) -> Explanation:
    """What a block does, and what it is made of."""
    image, text = model.facts.image, model.facts.text
    return Explanation(
        paragraphs(f"""
            A block is the unit that freeze_layers counts: the image tower has {image.depth}, the text tower
            {text.depth}. Each takes what the one before it gives and hands on something of the same kind, so any
            number of them, from below, can be frozen while the rest trains.

            Image: {_block_of(model, "image")}

            Text: {_block_of(model, "text")}
        """)
    )


def _block_of(model: Anatomy, name: str) -> str:
    tower = model.tower(name)
    of = share(model.size(name, "blocks"), model.size(name))
    if tower.stages is not None:
        units = listing([str(number) for number in tower.stages])
        stages = [p.parameters for p in model.facts.parts if p.tower == name and block_number(p.group) is not None]
        sizes = listing([grouped(size) for size in stages])
        return f"""
            a block is a stage of the network, here of {units} units. A unit {_mixes(tower.family)}. Toward the last
            stage the maps shrink and get deeper, so that a place stands for more of the picture. The stages have
            {sizes} parameters, {of} of the tower.
        """
    pieces = model.block[name]
    inside = ", ".join(f"{piece} {grouped(size)}" for piece, size in pieces.items())
    heads = f", in {tower.heads} heads of {tower.head_width} numbers each" if tower.heads else ""
    wider = f" to {grouped(tower.mlp_width)}" if tower.mlp_width else ""
    return f"""
        a block takes {tower.tokens or ""} tokens of {grouped(tower.width)} numbers and gives as many back. First
        attention: each token asks {_asked(tower)} for what it needs{heads}.
        Then the MLP: each token alone is widened{wider}, bent by {tower.activation} and brought back. Both are added
        to what came in. A block has {grouped(sum(pieces.values()))} parameters ({inside}); all blocks are {of} of the
        tower.
    """


def _mixes(family: str) -> str:
    """What a unit of a staged network looks at."""
    return {
        "timm SwinTransformer": "looks, by attention, at all places of one window of the maps",
        "timm FastVit": "looks at each place of the maps and around it, late ones by attention at all places",
    }.get(family, "looks at each place of the maps and around it")


def _asked(tower: TowerFacts) -> str:
    if tower.causal:
        return "itself and those before it"
    return "all tokens but the padding" if tower.family.startswith(_HUGGING_FACE) else "all tokens"


_HUGGING_FACE = "Hugging Face"

# --- embeddings ----------------------------------------------------------------------------------


def embeddings(model: Anatomy) -> Explanation:
    """What happens before block 0, and how much of a tower it is."""
    image, text = model.facts.image, model.facts.text
    sizes = {tower: model.size(tower, "embeddings") for tower in ("image", "text")}
    shares = {tower: share(size, model.size(tower)) for tower, size in sizes.items()}
    said = paragraphs(f"""
        Embeddings turn an input into what block 0 takes: numbers in place of pixels and words. Here they are
        {grouped(sizes["image"])} parameters of the image tower ({shares["image"]}) and {grouped(sizes["text"])} of
        the text tower ({shares["text"]}). freeze_layers: 1 and more freezes them.

        Image: {_pixels(model)} Positions: {image.positions}.

        Text: each piece of a word is looked up in a table of {grouped(text.vocabulary or 0)} rows of
        {grouped(text.width)} numbers. A batch touches few of the rows, so training moves common words much and rare
        ones hardly at all. At most {text.context_length} tokens fit; the rest of a caption is cut.
        {"A class token of the model's own joins at the end." if "class token" in text.token else ""} Positions:
        {text.positions}.
    """)
    tables = {name: shape for tower in ("image", "text") for name, shape in model.tables[tower].items()}
    rows = tuple((name, by(shape), grouped(prod(shape))) for name, shape in tables.items())
    decay = "They get no weight decay: rows of tokens that no caption asked for would shrink."
    return Explanation(said, Table(("looked up or added as it stands", "shape", "numbers"), rows), (decay,))


def _pixels(model: Anatomy) -> str:
    image = model.facts.image
    size = image.image_size or (0, 0)
    if image.patch is None or image.tokens is None:
        return f"convolutions make maps of the {by(size)} pixels, and the first stage takes these."
    down, across = size[0] // image.patch[0], size[1] // image.patch[1]
    more = image.tokens - down * across
    total = f"and {more} of the model's own: {image.tokens} tokens" if more else "tokens"
    if any(mark.title == "stem" for mark in image.landmarks):
        return f"""
            convolutions make maps of the {by(size)} pixels, a place for each {by(image.patch)} of them but seeing what
            lies around too. That makes {down} x {across} = {down * across} {total}, of {grouped(image.width)} numbers.
        """
    return f"""
        {by(size)} pixels in patches of {by(image.patch)} are {down} x {across} = {down * across} {total}. A patch has
        {by(image.patch)} x 3 = {grouped(prod(image.patch) * 3)} numbers, and becomes {grouped(image.width)}.
    """


# --- projection and pooling ----------------------------------------------------------------------


def projection(model: Anatomy) -> Explanation:
    """The last matrix of each tower."""
    size = sum(model.size(tower, "projection") for tower in ("image", "text"))
    if not size:
        return Explanation(
            paragraphs(f"""
                A projection maps what a tower pooled into the space that both towers share. This model has none: both
                towers end in that space, of {grouped(model.facts.image.embed_dim)} numbers, and projection: changes
                nothing here. Late blocks, norm and pooling can train in a projection's place.
            """)
        )
    some = f"{grouped(size)} parameters, {share(size, model.facts.parameters)} of the model"
    return Explanation(
        paragraphs(f"""
            A tower pools what it saw into one vector of a width of its own; a projection maps it into the space that
            both towers share, of {grouped(model.facts.image.embed_dim)} numbers. Projections are the cheapest part to
            train, here {some}. One alone can only weigh anew what its tower already sees.

            Image: {_projection_of(model, "image")}

            Text: {_projection_of(model, "text")}

            The freeze keys never count a projection as a layer: it trains unless projection: freeze says otherwise. A
            bare matrix is applied as x @ W, so that its shape is (in, out); the weight of a Linear is (out, in).
        """)
    )


def _projection_of(model: Anatomy, name: str) -> str:
    tower = model.tower(name)
    if not model.projection[name]:
        return "none. The tower ends in the shared space already; late blocks and pooling can train in its place."
    shapes = listing([f"{parameter} ({by(shape)})" for parameter, shape in model.projection[name].items()])
    return f"{grouped(tower.pooled_width)} numbers to {grouped(tower.embed_dim)}, by {shapes}."


def pooling(model: Anatomy) -> Explanation:
    """How many tokens become one vector."""
    image, text = model.facts.image, model.facts.text
    own = {tower: model.size(tower, "pooling") for tower in ("image", "text")}
    here = [f"{grouped(size)} of the {tower} tower" for tower, size in own.items() if size]
    return Explanation(
        paragraphs(f"""
            A tower ends in many vectors, one a place or a token, but a comparison needs one. Pooling makes it.

            Image: {image.pooling}. {_pools(image)}

            Text: {text.pooling}. {_pools(text)} {_sees(text)}

            Where pooling has parameters, they are a group of their own beside the norm and no layer: here
            {listing(here) if here else "there are none"}. Pooling belongs to the weights: features pooled in another
            way than the model was trained with mean little until it is trained again.
        """)
    )


def _pools(tower: TowerFacts) -> str:
    """What the tower's pooling does."""
    what = "tokens" if tower.stages is None else "places"
    if tower.pooling == "mean" and "class token" in tower.token:
        return "The patches count alike, the class token not at all."
    return next(words for kind, words in _POOLING.items() if tower.pooling.startswith(kind)).format(what=what)


_POOLING = {  # the first that the facts' words begin with
    "attention, asked by the mean": "The mean of all {what} is a question to each, answered as far as it fits.",
    "attention, cascade": "Learnt questions are put to all {what}, and one more to the answers: that one's is kept.",
    "attention, parallel": "One learnt question is put to all {what}; others, for the decoder, play no part.",
    "attention (": "Each learnt question is put to all {what}. The first one's answer is the picture's vector; the "
    "rest feed the decoder.",
    "attention": "One learnt question is put to all {what}, and each answers as far as it fits.",
    "class token, last": "A token of the model's own, put at the end, gathers what matters. Padding stands before it, "
    "masked but for one place.",
    "class token": "A token of the model's own goes through the blocks beside the others and gathers what matters.",
    "end-of-text": "The token that marks the end is kept.",
    "first token, pooler": "The token at the start is kept; a dense layer and tanh, the pooler, follow.",
    "first token": "The token at the start is kept; it has gathered what matters from the others.",
    "last token": "The token in the last place is kept, be it a word or filling.",
    "mean of tokens": "All words count alike; padding is left out.",
    "mean and maximum": "Of each number the mean and the largest among all {what} are averaged.",
    "mean beside maximum": "Of each number the mean and the largest among all {what} stand side by side.",
    "mean": "All {what} count alike.",
    "maximum": "Of each number the largest among all {what} is kept.",
    "none": "The {what} are taken as they are.",
}


def _sees(tower: TowerFacts) -> str:
    """Which tokens of a text can know all of it."""
    if not tower.causal:
        return "Its attention goes both ways, so that every token can know the whole text."
    sees = "Its attention is causal: a token sees itself and those before it, so that only a late one can know it all"
    return (
        f"{sees}." if tower.pooling == "class token, last" else f"{sees}, and what is filled up behind plays no part."
    )


# --- QuickGELU -----------------------------------------------------------------------------------


def quickgelu(model: Anatomy) -> Explanation:
    """GELU's fast stand-in, and why it must match the weights."""
    gap, where = quick_gelu_gap()
    towers = (model.facts.image, model.facts.text)
    image, text = (tower.activation for tower in towers)
    here = image if image == text else f"{image} in the image tower and {text} in the text tower"
    named = {"image": model.facts.image, "text": model.facts.text}
    users = [_times(name, tower) for name, tower in named.items() if "GELU" in tower.activation]
    neither = [name for name, tower in named.items() if "GELU" not in tower.activation]
    happens = f"""
        The two differ by at most {gap:.4f}, at x = {where:.2f} and -{where:.2f}: little once, but it happens in each of
        the {listing(users)}, and each was trained for what the one before gives.
    """
    unused = f"The {listing(neither)} tower uses neither." if len(neither) == 1 else ""
    other = model.other_activation
    twin = f"""
        open_clip has this model the other way too, as {other}: the same parameters under the same names, so that
        weights load into the wrong one without a word, and only the answers are worse.
    """
    none = "open_clip has no other form of this model that differs in QuickGELU alone."
    return Explanation(
        paragraphs(f"""
            This model computes with {here}.

            GELU is x times the share of a normal distribution below x. QuickGELU, x * sigmoid(1.702 x), is a fast
            stand-in (Gaussian Error Linear Units, Hendrycks and Gimpel, 2016), which OpenAI trained CLIP with.

            {happens if users else "Neither tower here uses either."} {unused}

            {twin if other else none} clipft refuses a tag or a config of the other kind; another bare file does not say
            which it is.
        """)
    )


def _times(name: str, tower: TowerFacts) -> str:
    """How often a tower computes it: once a block, or once a unit."""
    if tower.stages is None:
        return f"{tower.depth} blocks of the {name} tower"
    return f"{sum(tower.stages)} units of the {name} tower"
