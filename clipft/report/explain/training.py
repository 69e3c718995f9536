"""What to train: freezing at each N, and the strategies one by one."""

from __future__ import annotations

from clipft.model.anatomy import Anatomy, trains_at
from clipft.report.amounts import grouped, share
from clipft.report.explain.explanation import Explanation, Table, paragraphs

# --- freezing ------------------------------------------------------------------------------------

_EVERY = 12  # up to this depth a person is shown each N
_HEADINGS = ("N", "image trains", "of tower", "risk", "text trains", "of tower", "risk")


def freezing(model: Anatomy) -> Explanation:
    """What early and late blocks hold; share and risk at each N."""
    image, text = model.facts.image.depth, model.facts.text.depth
    every = [*range(max(image, text) + 1), -1]
    shown = _shown(max(image, text)) | {image, text}
    # How Transferable Are Features in Deep Neural Networks?; BERT Rediscovers the Classical NLP Pipeline
    before = paragraphs("""
        freeze_layers: N freezes a tower's embeddings and its first N blocks. Early blocks hold what every input
        needs (edges and textures; which words go together), late ones what the training was about (objects; meaning),
        so freezing begins below (Yosinski et al., 2014; for text Tenney et al., 2019).
    """)
    table = Table(
        _HEADINGS,
        tuple((str(n), *_cells(model, "image", n), *_cells(model, "text", n)) for n in every),
        tuple(i for i, n in enumerate(every) if n in shown),
    )
    after = paragraphs(f"""
        {image} (image) and {text} (text) leave norm, pooling and projection, -1 {_left(model)}. Risk is our reading,
        by depth and by share: of forgetting what pretraining taught, and of learning few photos by heart. Models
        trained whole beat linear probes by 2 points on photos like the training's and lost by 7 on others (LP-FT,
        ICLR 2022).
        {"--json has every N." if len(shown) < len(every) else ""}
    """)
    return Explanation(before, table, after)


def _left(model: Anatomy) -> str:
    """What -1 leaves to train."""
    without = [tower for tower in ("image", "text") if not model.projection[tower]]
    if len(without) == 2:
        return "nothing, since there are no projections"
    return f"the projection alone (none in the {without[0]} tower)" if without else "the projection alone"


def _shown(depth: int) -> set[int]:
    """All N of a shallow model; of a deep one the quarters and the last few."""
    if depth <= _EVERY:
        return {*range(depth + 1), -1}
    return {0, 1, depth // 4, depth // 2, 3 * depth // 4, depth - 4, depth - 2, depth - 1, -1}


def _cells(model: Anatomy, tower: str, layers: int) -> tuple[str, str, str]:
    depth = model.tower(tower).depth
    if layers > depth:
        return "", "", ""
    trains = trains_at(model, tower, layers)
    return grouped(trains), share(trains, model.size(tower)), _risk(layers / depth, trains / model.size(tower), layers)


def _risk(frozen: float, trains: float, layers: int) -> str:
    """Our reading: the riskier of what the share of blocks frozen and the share of parameters trained say.

    Late stages hold most of a staged network, so that few of its parameters are frozen with half of its depth.
    """
    if not trains:
        return "none"
    if layers <= 0:
        return "highest" if layers == 0 else "lowest"
    return "high" if frozen < 0.5 or trains > 0.5 else "fair" if frozen < 0.8 or trains > 0.2 else "low"


# --- strategies ----------------------------------------------------------------------------------


def strategies(model: Anatomy) -> Explanation:
    """What can be trained: what it comes to in this model, when, for and against."""
    facts = model.facts
    image, text = (trains_at(model, tower, 0) for tower in ("image", "text"))
    scales = model.size("heads")
    kept = trains_at(model, "image", -1)
    own = f"{grouped(kept)} and the classes" if kept else "the classes alone"
    projections = trains_at(model, "image", -1) + trains_at(model, "text", -1)
    first = {tower: max(model.tower(tower).depth - _late(model, tower), 0) for tower in ("image", "text")}
    last = sum(trains_at(model, tower, layers) for tower, layers in first.items())

    def trains(parameters: int) -> str:
        return f"{grouped(parameters)} ({share(parameters, facts.parameters)})"

    return Explanation(
        paragraphs(f"""
            Each is a strategy: NAME of a config; `clipft freeze-report` lists the keys it stands for.

            full: {trains(image + text + scales)}. When: thousands of pairs and a GPU. For: learns most; rate 1e-5
            (FLYP, CVPR 2023). Against: forgets most, rare classes first (LIFT, ICML 2024).

            freeze_text: {trains(image + scales)}. When: unusual pictures, known words. For: text features stay.
            Against: wants data. freeze_image: {trains(text + scales)}. When: known pictures, new words (LiT, CVPR
            2022).

            last_layers, {_late_words(model)}: {trains(last + scales)}, image.freeze_layers: {first["image"]},
            text.freeze_layers: {first["text"]}. When: hundreds of photos. For: early features stay; 3 blocks,
            projections and a prompt transferred best of the plain methods in Word and Descriptor Soups (CVPR 2024).

            heads: {trains(projections + scales)}. When: few photos, no GPU. For: the backbones stay whole. Against:
            {_HEADS if projections else _NO_HEADS}

            lora, adapter, prompt: new parameters beside what stands still. When: few photos. For: LoRA led with 16
            shots (CLIP-LoRA, CVPR workshops 2024). Against: prompts lose on classes not trained.

            logit_scale: {trains(scales)}. When: right answers, but too sure or too doubtful. For: no accuracy can fall.
            Against: none can rise.

            linear_probe: {grouped(facts.image.embed_dim + 1)} a class; loss.type: classifier alone trains
            {grouped(image)} of the image tower too (image.freeze_backbone: true: {own}). When: labels. Against: knows
            no other class.

            differential_lr: all that trains, at rates of its own. When: freezing cuts off too much. For: early parts
            move slowly. Against: takes as long as everything.
        """)
    )


_HEADS = "can only weigh anew what the towers see."
_NO_HEADS = "there are no projections here: nothing but the scale trains."


def _late(model: Anatomy, tower: str) -> int:
    """How many of its last blocks are worth a first try: a stage is much more than a transformer's block."""
    return 1 if model.tower(tower).stages is not None else 2


def _late_words(model: Anatomy) -> str:
    late = {tower: "stage" if _late(model, tower) == 1 else "2 blocks" for tower in ("image", "text")}
    if late["image"] == late["text"]:
        return f"last {late['image']}"
    return f"last {late['image']} (image), last {late['text']} (text)"
