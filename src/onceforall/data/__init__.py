"""Images: where they come from, how they are split, augmented and batched."""

from onceforall.data.batches.loaders import (
    AugmentedCalibration,
    Loaders,
    LoaderSettings,
    default_augmentation,
    open_loaders,
)
from onceforall.data.batches.protocols import Batch, CalibrationBatches, EvalBatches, TrainBatches
from onceforall.data.batches.resident import ResidentBatches, ResidentEvalBatches
from onceforall.data.batches.sharding import Shard
from onceforall.data.batches.streaming import StreamedBatches, StreamedEvalBatches
from onceforall.data.bundle import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    DataBundle,
    ImageArrays,
    ImageFiles,
    Images,
)
from onceforall.data.images.augmentation import (
    NO_AUGMENTATION,
    PUBLISHED_PHOTOS,
    SMALL_IMAGES,
    Augmentation,
)
from onceforall.data.images.mixing import Mixing, cutmix, mix, mixup
from onceforall.data.resolution import (
    continuous_resolutions,
    published_resolution,
)
from onceforall.data.sources.builtin import BUILTIN_NAMES
from onceforall.data.sources.open import open_dataset
from onceforall.data.splits import Splits, published_split, split_train

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
