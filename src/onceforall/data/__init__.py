"""Images: where they come from, how they are split, augmented and batched."""

from onceforall.data.augmentation import (
    NO_AUGMENTATION,
    PUBLISHED_PHOTOS,
    SMALL_IMAGES,
    Augmentation,
)
from onceforall.data.builtin import BUILTIN_NAMES
from onceforall.data.bundle import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    DataBundle,
    ImageArrays,
    ImageFiles,
    Images,
)
from onceforall.data.loaders import (
    AugmentedCalibration,
    Loaders,
    LoaderSettings,
    default_augmentation,
    open_loaders,
)
from onceforall.data.mixing import Mixing, cutmix, mix, mixup
from onceforall.data.protocols import Batch, CalibrationBatches, EvalBatches, TrainBatches
from onceforall.data.resident import ResidentBatches, ResidentEvalBatches
from onceforall.data.resolution import (
    continuous_resolutions,
    published_resolution,
)
from onceforall.data.sharding import Shard
from onceforall.data.sources import open_dataset
from onceforall.data.splits import Splits, published_split, split_train
from onceforall.data.streaming import StreamedBatches, StreamedEvalBatches

__all__ = [
    "BUILTIN_NAMES",
    "IMAGENET_MEAN",
    "IMAGENET_STD",
    "NO_AUGMENTATION",
    "PUBLISHED_PHOTOS",
    "SMALL_IMAGES",
    "Augmentation",
    "AugmentedCalibration",
    "Batch",
    "CalibrationBatches",
    "DataBundle",
    "EvalBatches",
    "ImageArrays",
    "ImageFiles",
    "Images",
    "LoaderSettings",
    "Loaders",
    "Mixing",
    "ResidentBatches",
    "ResidentEvalBatches",
    "Shard",
    "Splits",
    "StreamedBatches",
    "StreamedEvalBatches",
    "TrainBatches",
    "continuous_resolutions",
    "cutmix",
    "default_augmentation",
    "mix",
    "mixup",
    "open_dataset",
    "open_loaders",
    "published_resolution",
    "published_split",
    "split_train",
]
