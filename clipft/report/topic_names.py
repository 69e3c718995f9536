"""What `inspect --explain` explains, without an import, for the help; the texts, in `report/explain`, need torch."""

TOPICS = (
    "block",
    "embeddings",
    "projection",
    "similarity",
    "logit_scale",
    "alignment",
    "quickgelu",
    "pooling",
    "freezing",
    "strategies",
)
