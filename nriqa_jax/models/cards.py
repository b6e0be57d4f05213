"""Model cards: what a reader of scores must know of each model. Data only; `Model.card` carries one."""

import dataclasses

from nriqa_jax.models.card import Card

CNNIQA = Card(
    title="CNNIQA",
    citation="Kang et al., Convolutional Neural Networks for No-Reference Image Quality Assessment, CVPR 2014",
    year=2014,
    training_data="LIVE (DMOS)",
    score_range=(0.0, 100.0),
    higher_is_better=False,
    parameters=724_901,
    native_size=(32, 32),
    code_licence="none stated (PyTorch reimplementation by lidq92)",
    weights_licence="none stated",
    quirks=("The published loop over patches leaves the last row and column of patches out where 32 divides a side.",),
)

DBCNN = Card(
    title="DBCNN",
    citation="Zhang et al., Blind Image Quality Assessment Using a Deep Bilinear Convolutional Neural Network, "
    "IEEE TCSVT 2020",
    year=2020,
    training_data="one of LIVE, CSIQ, TID2013 and LIVE Challenge (authors' weights); KonIQ-10k and others (pyiqa)",
    score_range=(0.0, 100.0),
    higher_is_better=True,
    parameters=15_311_345,
    native_size=(448, 448),
    code_licence="MIT",
    weights_licence="not stated; trained on research data sets",
    quirks=(
        "Weights of pyiqa have the authors' names but score about 0..1 instead of 0..100; the range follows the file, "
        "which is known by its container `params`.",
        "The root of the mean product of two channels that never respond together has a slope of 5000, so pairs that "
        "hardly respond dominate the gradient.",
    ),
)

DBCNN_SMA = dataclasses.replace(
    DBCNN,
    title="DBCNN, clamped",
    training_data="LIVE Challenge, MOS rescaled to 0..100",
    code_licence="none stated (SMA, a variant of DBCNN)",
    weights_licence="none stated",
    quirks=(
        "Scores are clamped to 0..100, and have no gradient beyond.",
        "The authors of SMA test landscape photographs squashed to 512 rows and 384 columns (protocol sma), but attack "
        "them in their own size (protocol published).",
        *DBCNN.quirks[1:],
    ),
)

HYPERIQA = Card(
    title="HyperIQA",
    citation="Su et al., Blindly Assess Image Quality in the Wild Guided by a Self-Adaptive Hyper Network, CVPR 2020",
    year=2020,
    training_data="KonIQ-10k (authors' weights); LIVE Challenge (gradient-norm training weights)",
    score_range=(0.0, 100.0),
    higher_is_better=True,
    parameters=27_375_369,
    native_size=(224, 224),
    code_licence="MIT",
    weights_licence="not stated by the authors; trained on KonIQ-10k",
    quirks=(
        "The authors draw 25 crops anew in every run; crops are repeatable here.",
        "Weights of pyiqa score about 0..1 instead of 0..100; the range follows the file.",
    ),
)

LINEARITY = Card(
    title="LinearityIQA",
    citation="Li et al., Norm-in-Norm Loss with Faster Convergence and Better Performance for Image Quality "
    "Assessment, ACM MM 2020",
    year=2020,
    training_data="KonIQ-10k",
    score_range=(0.0, 100.0),
    higher_is_better=True,
    parameters=90_453_443,
    native_size=(498, 664),
    code_licence="none stated",
    weights_licence="none stated",
    quirks=(
        "The scale of the scores lies in two lists, k and b, beside the weights; files without them are refused.",
        "Weights trained for a loss without direction may have negative k, under which the network's own output falls "
        "with quality; scores do not.",
        "The authors first squash LIVE Challenge images of other sizes to 500x500; that is not done here.",
        "MSU's benchmark does not resize (protocol msu).",
    ),
)

LINEARITY_RESNET18, LINEARITY_RESNET34, LINEARITY_RESNET50 = (
    dataclasses.replace(
        LINEARITY, title=f"LinearityIQA ({trunk})", parameters=parameters, weights_licence="no weights are published"
    )
    for trunk, parameters in (("ResNet-18", 12_528_323), ("ResNet-34", 22_636_483), ("ResNet-50", 27_219_139))
)

LIQE_MIX = Card(
    title="LIQE (multitask)",
    citation="Zhang et al., Blind Image Quality Assessment via Vision-Language Correspondence: A Multitask Learning "
    "Perspective, CVPR 2023",
    year=2023,
    training_data="LIVE, CSIQ, KADID-10k, BID, LIVE Challenge and KonIQ-10k together, with labels of scenes and "
    "distortions",
    score_range=(1.0, 5.0),
    higher_is_better=True,
    parameters=151_277_313,
    native_size=(224, 224),
    code_licence="MIT",
    weights_licence="not stated; finetuned from CLIP ViT-B/32 (MIT) on research data sets",
    quirks=(
        "The 15 windows of the authors and of pyiqa may leave the right and the bottom border out; the protocol grid "
        "does not.",
        "The authors score the first window alone where there are fewer than 15, and so does the protocol published; "
        "the latest version of their module does it for every image, as it divides the size of the batch by 15 instead "
        "of the number of windows.",
        "The authors compute in half precision on GPUs; float32 is the default here.",
        "Files of `liqe` and `liqe_mix` hold the same names and shapes, so each model takes the other's file; the "
        "texts are the model's.",
    ),
)

LIQE = dataclasses.replace(
    LIQE_MIX,
    title="LIQE",
    training_data="KonIQ-10k, quality labels only (pyiqa)",
)

MANIQA = Card(
    title="MANIQA",
    citation="Yang et al., MANIQA: Multi-dimension Attention Network for No-Reference Image Quality Assessment, "
    "CVPR Workshops 2022",
    year=2022,
    training_data="KonIQ-10k or KADID-10k",
    score_range=(0.0, 1.0),
    higher_is_better=True,
    parameters=114_161_442,
    native_size=(224, 224),
    code_licence="Apache-2.0",
    weights_licence="not stated; trained on research data sets",
    quirks=(
        "The authors draw 20 crops anew in every run and average their scores; crops are repeatable here.",
        "pyiqa takes one weighted mean over the patches of 20 uniform crops together, instead of a mean of the scores "
        "of crops (protocol pyiqa).",
        "After a channel attention the numbers are read in another order than they were written in, as published.",
        "Scores of patches end in a ReLU, so that an attacked image may score exactly 0, where the gradient vanishes.",
        "Checkpoints hold two blocks, a norm, a classifier and two convolutions that nothing uses; they are dropped.",
        "Weights from PIPAL want another factor in the Swin layers, with the same names and shapes; they are the model "
        "`maniqa_pipal`.",
    ),
)

MANIQA_PIPAL = dataclasses.replace(
    MANIQA,
    title="MANIQA (PIPAL)",
    training_data="PIPAL (NTIRE 2022 challenge)",
    quirks=(
        *MANIQA.quirks[:-1],
        "Weights from other data sets want another factor in the Swin layers, with the same names and shapes; they are "
        "the model `maniqa`.",
    ),
)

METAIQA = Card(
    title="MetaIQA",
    citation="Zhu et al., MetaIQA: Deep Meta-Learning for No-Reference Image Quality Assessment, CVPR 2020",
    year=2020,
    training_data="TID2013 and KADID-10k (authors' prior model, to be finetuned); LIVE Challenge (pyiqa)",
    score_range=(0.0, 1.0),
    higher_is_better=True,
    parameters=13_242_923,
    native_size=(224, 224),
    code_licence="none stated",
    weights_licence="none stated",
    quirks=(
        "The authors publish a prior model of synthetic distortions, which they finetune for each data set.",
        "The authors resize with scikit-image, some versions of which blur before they shrink; nothing is "
        "blurred here, as in pyiqa.",
        "The logits of the 1000 ImageNet classes are the features.",
    ),
)

SPAQ_BL = Card(
    title="SPAQ BL",
    citation="Fang et al., Perceptual Quality Assessment of Smartphone Photography, CVPR 2020",
    year=2020,
    training_data="SPAQ",
    score_range=(0.0, 100.0),
    higher_is_better=True,
    parameters=23_510_081,
    native_size=(224, 224),
    code_licence="none stated",
    weights_licence="none stated",
    quirks=(
        "Pixels are not normalised by mean and standard deviation.",
        "The authors' code fails on images with a side below 512, which it does not resize; their patches are scored "
        "here, as by MSU's benchmark.",
        "MSU's benchmark takes patches of the image at its own size (protocol msu).",
        "Images with a side below 224, which the authors do not score, are upscaled to it.",
    ),
)

SPAQ_MTA = dataclasses.replace(SPAQ_BL, title="SPAQ MT-A", parameters=23_520_326)

SPAQ_MTE = dataclasses.replace(
    SPAQ_BL,
    title="SPAQ MT-E",
    parameters=23_510_089,
    quirks=(
        *SPAQ_BL.quirks,
        "A photograph without EXIF tags has zeros after their normalisation, so its score is that of the pixels alone; "
        "every photograph is scored so unless `spaq_mte` is given tags.",
    ),
)

SPAQ_MTS = dataclasses.replace(
    SPAQ_BL,
    title="SPAQ MT-S",
    quirks=(*SPAQ_BL.quirks, "The half of the file that only tells scenes apart is dropped."),
)

TINYIQA = Card(
    title="TinyIQA",
    citation="this project",
    year=2026,
    training_data="250 NIPS 2017 photographs, distorted; labels are MS-SSIM to the pristine photograph",
    score_range=(0.0, 100.0),
    higher_is_better=True,
    parameters=205_881,
    native_size=(299, 299),
    code_licence="Apache-2.0",
    weights_licence="Apache-2.0; trained on CC-BY photographs",
    quirks=("A stand-in for demonstrations and tests, not a state-of-the-art metric.",),
)
