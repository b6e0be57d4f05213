"""Published training schedules, from the code that its authors released; what that code does besides is a `Quirk`.

Where papers choose the epoch by their test images, ``--selection=test`` does so too. Initial weights are the user's:
published runs start from ImageNet's, and DBCNN and MetaIQA from networks trained beforehand.
"""

import dataclasses

from experiments.training.plan import Plan, Quirk

# HyperIQA as the authors of gradient-norm training (CVPR 2024) train it on LIVE In the Wild, and with their penalty.
HYPERIQA = Plan(
    loss="l1",
    epochs=16,
    batch_size=16,
    crop=224,
    crops=25,
    learning_rate=2e-5,
    head_factor=10.0,
    head_factor_epochs=9,
    weight_decay=5e-4,
    schedule="step",
    decay=0.1,
    decay_every=6,
    labels="raw",
    quirks=(Quirk.HEAD_FROZEN, Quirk.BACKBONE_RATE_KEPT, Quirk.OPTIMISER_RENEWED),
)
HYPERIQA_NT = dataclasses.replace(
    HYPERIQA,
    defense="nt",
    nt_weight=1e-3,
    nt_step=1e-2,
    nt_method="finite_difference",
    nt_units="normalised",
    quirks=(*HYPERIQA.quirks, Quirk.THREE_PASSES),
)

# LinearityIQA with the norm-in-norm loss for p = 1, q = 2, on KonIQ-10k. Its weak losses of the two single heads, a
# tenth each, are left out here.
LINEARITY_P1Q2 = Plan(
    loss="norm_in_norm",
    epochs=30,
    batch_size=8,
    crop=0,
    flip=0.0,
    resize="498x664",
    learning_rate=1e-5,
    head_factor=10.0,
    schedule="step",
    decay=0.1,
    decay_every=10,
)

# DBCNN in two stages, on LIVE In the Wild: the last layer alone, then all of it.
DBCNN_HEAD = Plan(
    loss="l2",
    epochs=50,
    batch_size=8,
    crop=448,
    optimiser="sgd",
    learning_rate=1e-3,
    freeze_backbone=True,
    weight_decay=5e-4,
    schedule="constant",
    labels="raw",
)
DBCNN = Plan(
    loss="l2",
    epochs=50,
    batch_size=8,
    crop=448,
    learning_rate=1e-5,
    weight_decay=5e-4,
    schedule="constant",
    labels="raw",
)

# MANIQA on KonIQ-10k.
MANIQA = Plan(
    loss="l2",
    epochs=300,
    batch_size=8,
    crop=224,
    flip=0.7,
    learning_rate=1e-5,
    weight_decay=1e-5,
    schedule="cosine",
    quirks=(Quirk.COSINE_BY_STEPS,),
)

# MetaIQA's tuning on LIVE In the Wild.
METAIQA = Plan(
    loss="l2",
    epochs=100,
    batch_size=50,
    crop=224,
    resize="256x256",
    learning_rate=1e-4,
    schedule="step",
    decay=0.8,
    decay_every=10,
    quirks=(Quirk.DECAY_COMPOUNDED,),
)
