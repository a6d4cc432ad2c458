"""The sections of a configuration: what a run can be told about each of its parts."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from onceforall.arch import MAX_RESOLUTION

# The largest that every generator takes.
MAX_SEED = 2**63 - 1
# With more, OpenMP ends the process.
MAX_THREADS = 512

Pixels = Annotated[int, Field(ge=4, le=MAX_RESOLUTION)]
Width = Annotated[int, Field(ge=1, le=2**16)]
Stride = Annotated[int, Field(ge=1, le=4)]
Depth = Annotated[int, Field(ge=1, le=64)]
Kernel = Annotated[int, Field(ge=1, le=31)]
Count = Annotated[int, Field(ge=1, le=64)]
Share = Annotated[float, Field(ge=0.01, le=1)]
Factor = Annotated[float, Field(ge=0.01, le=64)]
Level = Annotated[float, Field(ge=-100, le=100)]
Deviation = Annotated[float, Field(ge=1e-4, le=100)]


class Section(BaseModel):
    """Base of every part of a configuration: frozen, finite, and unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class DataConfig(Section):
    """Images and how they are split and varied.

    Attributes:
        source: A known name, an ``.npz`` file or a folder of class folders.
        root: Folder of downloaded data sets; empty for the user's cache.
        on_bad_image: What to do with an image that cannot be read.
        num_valid: Images held out of the training set; the data set's own split, if it has one,
            is used instead.
        num_calibration: Training images that recalibrate batch norm.
        crop: ``pad`` shifts whole images (by ``padding``), ``resized`` cuts out parts (of at least
            ``min_scale``); null leaves it to the data set.
        padding: Largest random shift, as a fraction of the side.
        padding_mode: What a shift brings in: black (``zero``) or the mirrored image (``reflect``).
        flip: Mirror images at random; null leaves it to the data set.
        color: Colour distortion ``none``, ``tf`` or ``torch``; null leaves it to the data set.
        min_scale: Smallest share of an image's area that a ``resized`` crop shows.
        cutout: Side of a blank square, as a fraction of the image's side; 0 for none.
        policy: Further image operations, for photographs read from files.
        mixup_alpha: Parameter of mixup; 0 for none.
        cutmix_alpha: Parameter of cutmix; 0 for none.
        num_workers: Processes that read files, for training, validation, test and calibration
            together; 0 reads in the training process. Processes that a run starts itself
            (``train.ranks``) share them, at least one each; each of a launcher has as many. Where
            0 is not said, a plan for a GPU has some.
        mean: Mean of each channel of images in [0, 1] that is taken off; null for the data set's.
        std: Standard deviation that they are then divided by; null for the data set's.
    """

    source: str
    root: str = ""
    on_bad_image: Literal["refuse", "skip"] = "refuse"
    num_valid: int = Field(ge=1, le=10**8)
    num_calibration: int = Field(ge=1, le=10**8)
    crop: Literal["none", "pad", "resized"] | None = None
    padding: float = Field(0.125, ge=0, le=0.5)
    padding_mode: Literal["zero", "reflect"] = "zero"
    flip: bool | None = None
    color: Literal["none", "tf", "torch"] | None = None
    min_scale: float = Field(0.08, ge=1e-4, le=1)
    cutout: float = Field(0.0, ge=0, le=1)
    policy: Literal["none", "randaugment", "trivialaugment"] = "none"
    mixup_alpha: float = Field(0.0, ge=0, le=100)
    cutmix_alpha: float = Field(0.0, ge=0, le=100)
    num_workers: int = Field(0, ge=0, le=256)
    mean: tuple[Level, Level, Level] | None = None
    std: tuple[Deviation, Deviation, Deviation] | None = None


class SupernetConfig(Section):
    """The elastic network.

    Attributes:
        family: A stage ``table`` of your own; dense 3x3 convolutions in plain ``residual`` or
            ``fused_mbconv`` blocks; inverted bottlenecks for ``small_images`` (8 to 64 pixels);
            a published family; or any network as a ``graph``, traced and made elastic. The
            settings of stages are for ``residual``, ``fused_mbconv`` and ``small_images``.
        source: Network of family ``graph``: ``torchvision:NAME``, ``timm:NAME`` or
            ``module.path:function``.
        width_ratios: Shares of its channels that a group of a ``graph`` may keep, ascending to 1.
        whole_below: Channels that the blocks of a ``graph`` share are all kept where there are
            fewer than this.
        table: The stage table of family ``table``, as ``supernet.json`` of a run has it under
            ``spec``; classes and resolutions come from here.
        resolutions: Input sides in pixels.
        widths: Output channels of each stage.
        strides: Stride of each stage of a dense family; empty for 1, then 2 for every other.
        width_mults: Elastic multipliers of every width; empty where widths are rigid.
        depths: Blocks that may be kept in each stage.
        kernel_sizes: Depthwise kernels on offer; dense families have 3x3 alone.
        expand_ratios: Expand ratios on offer; of ``residual`` blocks, middle over output width.
        stem_width: Channels of the stem.
        stem_stride: Stride of the stem; dense families only.
        expand_width: Channels before pooling; ``small_images`` only.
        divisor: Widths are multiples of it.
        width_mult: Rigid width multiplier of a published MobileNet family.
        dropout: Dropout rate before the classifier.
    """

    family: Literal[
        "table",
        "residual",
        "fused_mbconv",
        "small_images",
        "mobilenet_v3",
        "proxylessnas",
        "resnet50d",
        "graph",
    ]
    source: str = ""
    width_ratios: tuple[Share, ...] = Field((0.25, 0.5, 0.75, 1.0), min_length=1, max_length=16)
    whole_below: int = Field(0, ge=0, le=2**16)
    resolutions: tuple[Pixels, ...] = Field(min_length=1, max_length=64)
    table: dict[str, Any] | None = None
    widths: tuple[Width, ...] = Field((16, 32, 64), min_length=1, max_length=32)
    strides: tuple[Stride, ...] = Field((), max_length=32)
    width_mults: tuple[Factor, ...] = Field((0.5, 0.75, 1.0), max_length=64)
    depths: tuple[Depth, ...] = Field((1, 2), min_length=1, max_length=64)
    kernel_sizes: tuple[Kernel, ...] = Field((3, 5, 7), min_length=1, max_length=16)
    expand_ratios: tuple[Factor, ...] = Field((2, 3, 4), min_length=1, max_length=64)
    stem_width: Width = 16
    stem_stride: int = Field(1, ge=1, le=4)
    expand_width: int = Field(128, ge=0, le=2**16)
    divisor: int = Field(8, ge=1, le=1024)
    width_mult: Factor = 1.0
    dropout: float = Field(0.0, ge=0, le=0.999)


class OpenedConfig(Section):
    """How much of each axis a phase opens: the ``n`` largest options, a list of options, or all."""

    kernel_size: Count | tuple[Kernel, ...] | None = None
    depth: Count | tuple[Depth, ...] | None = None
    expand_ratio: Count | tuple[Factor, ...] | None = None
    width_mult: Count | tuple[Factor, ...] | None = None
    stem_depth: Count | tuple[int, ...] | None = None
    resolution: Count | tuple[Pixels, ...] | None = None


class PhaseConfig(Section):
    """One phase of training, as ``train.phases`` lists them: a map with these keys.

    Attributes:
        name: Its name, which ``--start-at`` takes.
        epochs: Passes over the training images, before they are scaled to ``train.epochs``.
        learning_rate: Peak, for ``train.reference_batch`` images a step.
        warmup_epochs: Epochs of linear warm-up among ``epochs``.
        warmup_start: Learning rate that the warm-up starts from.
        opened: The part of the space that subnets are drawn from.
        draw: ``largest`` subnet only, ``random`` ones, or the ``sandwich``.
        subnets_per_step: Subnets whose gradients make one step.
        teacher: Who gives soft targets: ``none``, the largest subnet of the step (``in_place``), or
            the network as it was after the first phase (``frozen``).
        trainable: ``all``, the kernel ``transforms`` only, or the ``classifier`` only.
        sort_channels: Smaller widths trained already when channels are sorted by importance before
            the phase; null for no sorting.
        ramp: Share of the phase over which smaller subnets come in.
        cosine_part: Where on the half cosine the phase begins and ends.
    """

    name: str = Field(min_length=1)
    epochs: float = Field(gt=0, le=1e6)
    learning_rate: float = Field(gt=0, le=1e4)
    warmup_epochs: float = Field(0.0, ge=0, le=1e6)
    warmup_start: float = Field(0.0, ge=0, le=1e4)
    opened: OpenedConfig = OpenedConfig()
    draw: Literal["largest", "random", "sandwich"] = "random"
    subnets_per_step: int = Field(1, ge=1, le=256)
    teacher: Literal["none", "in_place", "frozen"] = "none"
    trainable: Literal["all", "transforms", "classifier"] = "all"
    sort_channels: int | None = Field(None, ge=0, le=64)
    ramp: float = Field(0.0, ge=0, le=1)
    cosine_part: tuple[float, float] = (0.0, 1.0)


class TrainConfig(Section):
    """Training.

    Attributes:
        plan: One-stage ``sandwich``, ``progressive`` or ``delayed`` shrinking, progressive
            shrinking as ``published``, or a sandwich in turns that begins with the ``original``:
            the trained network that ``init`` names, which may teach as it was.
        phases: Phases instead of those of ``plan``, whose other settings stay; empty for its own.
        start_at: Phase to begin with, from the weights ``init`` that the ones before it left;
            empty for the first.
        teacher: Supernet that phases with a ``frozen`` teacher learn from; empty for the network
            after the first phase.
        epochs: Passes over the training images, all phases together (``progressive`` and
            ``published`` round each phase); 0 takes ``init`` as it is; null for those of
            ``phases``, else what the time allows.
        epochs_scale: Factor of ``epochs``, and of those of ``phases``.
        more_epochs: Passes that training goes on for after its end, each time that it was asked to
            (``ofa train RUN --more-epochs``).
        batch_size: Images per batch and rank.
        learning_rate: Peak, for ``reference_batch`` images a step.
        reference_batch: Global batch that ``learning_rate`` is meant for.
        subnets_per_step: Subnets of a sandwich, of ``sandwich`` and ``delayed`` plans at least 2;
            null for what suits the plan: 4 and 2, and 1 of ``original``, where one takes turns.
        full_share: Share of the epochs that the largest subnet trains alone; ``delayed`` plan.
        ramp: Share of the rest over which smaller subnets come in; ``delayed`` plan.
        optimizer: ``muon`` turns the weights of inner convolutions by orthogonalized steps of
            ``muon_rate`` and keeps their length; it takes fewer passes. All else, and everything
            with ``sgd``, goes by stochastic gradient descent.
        muon_rate: Peak learning rate of Muon, in radians a step.
        weight_decay: L2 penalty of convolution and linear weights; of what Muon trains, none.
        label_smoothing: Share of each label that is spread over all classes.
        ema_decay: Of a running mean of the weights, which is what is kept; 0 for none.
        side: Side of training images over the resolution of the subnets that they train; below 1
            for random crops, which show objects larger than evaluation does.
        max_grad_norm: Global norm that gradients are clipped to, 0 for no clipping; null for the
            plan's own.
        distillation: Loss towards a teacher: soft targets; the adaptive ``alpha`` divergence, of
            the ``sandwich`` plan; ``none`` for no teacher in any phase; null for soft targets, of
            the ``original`` plan where the network as it was is right on 95 % of training images
            and more.
        attentive: Of a sandwich, train the ``best`` or ``worst`` of a few random subnets of like
            MACs.
        autocast: Forward passes in bfloat16; null for what is measured to be faster.
        micro_batches: Parts that a batch is split into to save memory.
        ranks: Processes that a run starts on this machine to train side by side; 0 for what is
            measured to be faster. Under torchrun its processes count.
        threads: CPU threads of a process; part of what makes a run repeat bit by bit. 0 for all
            cores.
        init: Weights to start from: a supernet of this package or a published checkpoint of the
            same stage table; empty for fresh weights.
        reinit_head: Keep a fresh classifier where ``init`` has other classes.
        fit_head: Fit a fresh classifier to the features of the weights in ``init`` before anything
            else learns; drawn at random it would first make them worse.
        freeze_backbone: Train the classifier only.
        head_factor: Learning rate of the classifier over that of the rest.
    """

    plan: Literal["sandwich", "progressive", "delayed", "original", "published"] = "sandwich"
    phases: tuple[PhaseConfig, ...] = Field((), max_length=100)
    start_at: str = ""
    teacher: str = ""
    epochs: float | None = Field(None, ge=0, le=1e6)
    epochs_scale: float = Field(1.0, ge=1e-6, le=1e6)
    more_epochs: tuple[Annotated[float, Field(gt=0, le=1e6)], ...] = Field((), max_length=1000)
    batch_size: int = Field(64, ge=1, le=2**20)
    learning_rate: float = Field(0.3, gt=0, le=1e4)
    reference_batch: int = Field(64, ge=1, le=2**24)
    subnets_per_step: int | None = Field(None, ge=1, le=256)
    full_share: float = Field(0.5, gt=0, lt=1)
    ramp: float = Field(0.3, ge=0, le=1)
    optimizer: Literal["sgd", "muon"] = "sgd"
    muon_rate: float = Field(0.05, gt=0, le=1)
    weight_decay: float = Field(1e-4, ge=0, le=10)
    label_smoothing: float = Field(0.1, ge=0, lt=1)
    ema_decay: float = Field(0.0, ge=0, lt=1)
    side: float = Field(1.0, ge=0.1, le=1)
    max_grad_norm: float | None = Field(None, ge=0, le=1e9)
    distillation: Literal["soft_targets", "alpha", "none"] | None = None
    attentive: Literal["none", "best", "worst"] = "none"
    autocast: bool | None = False
    micro_batches: int = Field(1, ge=1, le=2**20)
    ranks: int = Field(1, ge=0, le=256)
    threads: int = Field(0, ge=0, le=MAX_THREADS)
    init: str = ""
    reinit_head: bool = False
    fit_head: bool = True
    freeze_backbone: bool = False
    head_factor: float = Field(1.0, gt=0, le=1e6)

    @property
    def asked_epochs(self) -> float | None:
        """Return the passes that are asked for; None for what the time allows."""
        own = sum(phase.epochs for phase in self.phases) if self.phases else None
        epochs = own if self.epochs is None else self.epochs
        return None if epochs is None else epochs * self.epochs_scale

    @property
    def is_taught(self) -> bool:
        """Return whether subnets learn from a teacher, too.

        The ``original`` plan starts from a network that may know the data no better than labels
        do: a run decides it when it starts. Phases of one's own say it themselves.
        """
        if self.distillation is None:
            return self.plan != "original" or bool(self.phases)
        return self.distillation != "none"


class EvaluateConfig(Section):
    """Which subnets are measured to train the accuracy predictor.

    Attributes:
        num_archs: Sampled subnets, spread over MACs; the smallest, and the largest at up to four
            sides, come on top. A predictor needs 10.
    """

    num_archs: int = Field(160, ge=10, le=10**6)


class GridConfig(Section):
    """A grid: all combinations of options, each one for the whole network.

    Attributes:
        every: Epochs between validations of the grid while a supernet trains, and at the end of
            each phase; 0 for none.
        resolutions: Its input sides; empty for all.
        depths: Its depths; empty for all.
        kernel_sizes: Its kernel sizes; empty for all.
        expand_ratios: Its expand ratios; empty for all.
        width_mults: Its width multipliers; empty for all.
        ship: Ship the grid, instead of searching for subnets to ship.
        finetune_epochs: Epochs of fine-tuning of each that is shipped, before
            ``train.epochs_scale``; 0 for none.
        finetune_rate: Peak learning rate of fine-tuning, for ``train.reference_batch`` images.
    """

    every: int = Field(0, ge=0, le=10**6)
    resolutions: tuple[Pixels, ...] = Field((), max_length=64)
    depths: tuple[Depth, ...] = Field((), max_length=64)
    kernel_sizes: tuple[Kernel, ...] = Field((), max_length=16)
    expand_ratios: tuple[Factor, ...] = Field((), max_length=64)
    width_mults: tuple[Factor, ...] = Field((), max_length=64)
    ship: bool = False
    finetune_epochs: float = Field(0.0, ge=0, le=1e5)
    finetune_rate: float = Field(0.03, gt=0, le=1e4)


class LatencyConfig(Section):
    """The device.

    Attributes:
        target: ``ort-cpu`` (ONNX Runtime), ``torch-cpu``, ``torch-cuda`` (of several GPUs the one
            that trains; ``torch-cuda:1`` is the second), ``openvino``, or ``ssh:USER@HOST``, ONNX
            Runtime of another machine.
        threads: Threads of a run.
        budget_s: Seconds for profiling blocks and whole subnets.
    """

    target: str = "ort-cpu"
    threads: int = Field(1, ge=1, le=MAX_THREADS)
    budget_s: float = Field(30.0, gt=0, le=1e7)


class SearchConfig(Section):
    """The search for the front.

    Attributes:
        population_size: Archs of a generation.
        generations: Generations of the search.
        limits: Upper bounds by name (``latency_ms``, ``macs``, ``params``,
            ``peak_activation_bytes``); empty for the whole front.
        num_models: Winners to ship from the front; with limits there is one.
        num_candidates: Archs of the front that are measured to choose the winners from.
        caution: Standard deviations taken off each predicted top-1 before archs are compared;
            0 compares the predictions themselves.
        finetune_share: Share of a run's time in which the winners are trained on, each alone,
            before they ship; 0 ships them as the supernet left them. A run without a time has
            none.
        refine_evaluations: Subnets measured during the search, where they may improve the front
            most; the predictor is fitted again in between.
    """

    population_size: int = Field(128, ge=8, le=10**5)
    generations: int = Field(60, ge=1, le=10**5)
    limits: dict[str, float] = Field(default_factory=dict)
    num_models: int = Field(8, ge=1, le=1000)
    num_candidates: int = Field(32, ge=1, le=10**5)
    caution: float = Field(0.0, ge=0, le=100)
    finetune_share: float = Field(0.0, ge=0, le=0.5)
    refine_evaluations: int = Field(0, ge=0, le=10**6)
