"""The published data sets: facts with their sources, and how to read each.

Direction and range are those of the makers' scales, whatever a column is called: the "dmos" of KADID-10k is better
where it is higher, the "mos" in pyiqa's table of LIVE is a DMOS. PIPAL's range is that of its training scores.
"""

from experiments.data_sets import layouts
from experiments.data_sets.data_set import Known, Scale

_LIVE_PAGE = "https://live.ece.utexas.edu/research"

LIVE = Known(
    name="live",
    title="LIVE (release 2)",
    citation="Sheikh, Sabir and Bovik, IEEE Transactions on Image Processing 15(11), 2006",
    page=f"{_LIVE_PAGE}/quality/subjective.htm",
    images=779,
    scale=Scale(worst=100.0, best=0.0),
    table="dmos_realigned.mat or dmos.mat",
    listing=layouts.live,
    meta_info="meta_info_LIVEIQADataset.csv",
)
CSIQ = Known(
    name="csiq",
    title="CSIQ",
    citation="Larson and Chandler, Journal of Electronic Imaging 19(1), 2010",
    page="https://s2.smu.edu/~eclarson/csiq.html",
    images=866,
    scale=Scale(worst=1.0, best=0.0),
    table="csiq.DMOS.xlsx",
    listing=layouts.csiq,
    folders=("dst_imgs", "dst_imgs_all", "."),
    meta_info="meta_info_CSIQDataset.csv",
)
TID2013 = Known(
    name="tid2013",
    title="TID2013",
    citation="Ponomarenko et al., Signal Processing: Image Communication 30, 2015",
    page="https://www.ponomarenko.info/tid2013.htm",
    images=3000,
    scale=Scale(worst=0.0, best=9.0),
    table="mos_with_names.txt",
    listing=layouts.tid2013,
    folders=("distorted_images", "."),
    meta_info="meta_info_TID2013Dataset.csv",
)
KADID10K = Known(
    name="kadid10k",
    title="KADID-10k",
    citation="Lin, Hosu and Saupe, QoMEX 2019",
    page="https://database.mmsp-kn.de/kadid-10k-database.html",
    images=10_125,
    scale=Scale(worst=1.0, best=5.0),
    table="dmos.csv",
    listing=layouts.kadid10k,
    folders=("images", "."),
    meta_info="meta_info_KADID10kDataset.csv",
)
LIVEC = Known(
    name="livec",
    title="LIVE In the Wild Image Quality Challenge",
    citation="Ghadiyaram and Bovik, IEEE Transactions on Image Processing 25(1), 2016",
    page=f"{_LIVE_PAGE}/ChallengeDB/index.html",
    images=1162,
    scale=Scale(worst=0.0, best=100.0),
    table="Data/AllMOS_release.mat",
    listing=layouts.livec,
    folders=("Images", "."),
    excludes="t",
    meta_info="meta_info_LIVEChallengeDataset.csv",
)
KONIQ10K = Known(
    name="koniq10k",
    title="KonIQ-10k",
    citation="Hosu, Lin, Sziranyi and Saupe, IEEE Transactions on Image Processing 29, 2020",
    page="https://database.mmsp-kn.de/koniq-10k-database.html",
    images=10_073,
    scale=Scale(worst=1.0, best=100.0),
    table="koniq10k_distributions_sets.csv or koniq10k_scores_and_distributions.csv",
    listing=layouts.koniq10k,
    folders=("1024x768", "512x384", "."),
    meta_info="meta_info_KonIQ10kDataset.csv",
)
SPAQ = Known(
    name="spaq",
    title="SPAQ",
    citation="Fang, Zhu, Zeng, Ma and Wang, CVPR 2020",
    page="https://github.com/h4nwei/SPAQ",
    images=11_125,
    scale=Scale(worst=0.0, best=100.0),
    table="Annotations/MOS and Image attribute scores.xlsx",
    listing=layouts.spaq,
    folders=("TestImage", "."),
    meta_info="meta_info_SPAQDataset.csv",
)
FLIVE = Known(
    name="flive",
    title="FLIVE (LIVE-FB, PaQ-2-PiQ)",
    citation="Ying et al., CVPR 2020",
    page="https://github.com/niu-haoran/FLIVE_Database",
    images=39_810,
    scale=Scale(worst=0.0, best=100.0),
    table="labels_image.csv",
    listing=layouts.flive,
    meta_info="meta_info_FLIVEDataset.csv",
)
BID = Known(
    name="bid",
    title="BID",
    citation="Ciancio et al., IEEE Transactions on Image Processing 20(1), 2011",
    page="https://github.com/zwx8981/UNIQUE#link-to-download-the-bid-dataset",
    images=586,
    scale=Scale(worst=0.0, best=5.0),
    table="DatabaseGrades.xlsx",
    listing=layouts.bid,
    folders=("ImageDatabase", "."),
)
PIPAL = Known(
    name="pipal",
    title="PIPAL",
    citation="Gu et al., ECCV 2020",
    page="https://www.jasongt.com/projectpages/pipal.html",
    images=23_200,
    scale=Scale(worst=868.0, best=1857.0),
    table="Train_Label/*.txt",
    listing=layouts.pipal,
    meta_info="meta_info_PIPALDataset.csv",
)
AGIQA3K = Known(
    name="agiqa3k",
    title="AGIQA-3k",
    citation="Li et al., IEEE Transactions on Circuits and Systems for Video Technology 34(8), 2024",
    page="https://github.com/lcysyzxdxc/AGIQA-3k-Database",
    images=2982,
    scale=Scale(worst=0.0, best=5.0),
    table="data.csv",
    listing=layouts.agiqa3k,
)
NIPS2017 = Known(
    name="nips2017",
    title="NIPS 2017 adversarial competition (development set)",
    citation="Kurakin et al., The NIPS '17 Competition: Building Intelligent Systems, 2018",
    page="https://www.kaggle.com/c/nips-2017-defense-against-adversarial-attack",
    images=1000,
    scale=None,
    table="images",
    listing=layouts.nips2017,
)

ALL = (LIVE, CSIQ, TID2013, KADID10K, LIVEC, KONIQ10K, SPAQ, FLIVE, BID, PIPAL, AGIQA3K, NIPS2017)
