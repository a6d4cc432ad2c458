"""The case of every option of the verbs that make something; those that look are beside."""

from __future__ import annotations

from tests.cli.looking_cases import BUILD, EVAL, LOOKING, MEASURING, STATIC
from tests.cli.option_case import NO_RUN, Case, Command, add, swap, without
from tests.cli.places import TINY

# -- the job --------------------------------------------------------------------------------------

OFA = "ofa_mbv3_d234_e346_k357_w1.0"
RUN = ("run", "{images}", "--out", "{out}", *TINY)
PLAN, TRAIN = (*RUN, "--until", "plan"), (*RUN, "--until", "train")
OPEN_PLAN = without(PLAN, "--set", "train.epochs=1")
# Without a network of its own, and with that of a run that is done.
BARE = tuple(
    word
    for pair in zip(RUN[4::2], RUN[5::2], strict=True)
    if not pair[1].startswith("supernet.")
    for word in pair
)
BARE = (*RUN[:4], *BARE)
NET = (*BARE, "--net", "{run}/checkpoints/supernet.json")
FROM_START = (*TRAIN, "--init", "{supernet}")
CIFAR = ("run", "cifar10", "--out", "{out}", *TINY, "--until", "plan", "--root", "{root_a}")
DAMAGED = (
    *("run", "{damaged}", "--out", "{out}", *TINY, "--until", "plan"),
    *("--set", "data.num_valid=6", "--set", "data.num_calibration=6"),
)

MORE_EPOCHS = ("train", "{copy}", "--more-epochs", "1", "--json")

JOB = {
    "run DATA": swap(
        PLAN, "{images}", "{images_b}", seen="data", wrong="a/b", says="no such folder"
    ),
    "run --out": swap(
        PLAN, "{out}", "{out}/in", seen="files", wrong="{file}/run", says="cannot be written"
    ),
    "run --recipe": add(
        PLAN, "--recipe", "imagenet-sandwich",
        seen="config", wrong=("--recipe", "best"), says="recipe 'best' is not one of auto",
    ),
    "run --budget": add(
        OPEN_PLAN, "--budget", "60s",
        seen="budget", wrong=("--budget", "soon"), says="'soon' is not a time",
    ),
    "run --effort": add(
        OPEN_PLAN, "--effort", "quick",
        seen="budget", wrong=("--effort", "fast"), says="'fast' is not one of quick",
    ),
    "run --net": Case(
        base=(*BARE, "--until", "plan"), other=(*NET, "--until", "plan"), seen="config",
        wrong=(*BARE, "--until", "plan", "--net", "{nothing}.yaml"), says="no such file",
    ),
    "run --weights": add(
        (*NET, "--until", "train"), "--weights", "{supernet}",
        seen="weights", wrong=("--weights", "{nothing}"), says="is neither a file nor official",
    ),
    "run --epochs": swap(
        (*OPEN_PLAN, "--epochs", "1"), "1", "2", seen="config", wrong="-1", says="'--epochs'",
    ),
    "run --epochs-scale": add(
        PLAN, "--epochs-scale", "2",
        seen="config", wrong=("--epochs-scale", "0"), says="train.epochs_scale 0",
    ),
    "run --start-at": add(
        (*FROM_START, "--set", "train.plan=delayed"), "--start-at", "shrink",
        seen="weights", wrong=("--start-at", "width"), says="phase 'width' is not one of full",
    ),
    "run --static": Case(
        base=(*BARE, "--until", "plan"),
        other=(*BARE, "--until", "plan", "--static", "{net_config}"), seen="config",
        wrong=(*BARE, "--until", "plan", "--static", "mobilenet_v9"), says="is no .json file",
    ),
    "run --limit": add(
        PLAN, "--limit", "macs=1e5", seen="config", wrong=("--limit", "speed=1"), says="'speed' is",
    ),
    "run --config": add(
        PLAN, "--config", "{yaml}",
        seen="config", wrong=("--config", "{file}"), says="is not a text file",
    ),
    "run --set": add(
        PLAN, "--set", "search.caution=2",
        seen="config", wrong=("--set", "train.epoch=3"), says="train.epochs?",
    ),
    "run --init": add(
        TRAIN, "--init", "{supernet}",
        seen="weights", wrong=("--init", "{nothing}"), says="is not a file",
    ),
    "run --reinit-head": Case(
        base=FROM_START, other=(*FROM_START, "--reinit-head"), seen="weights"
    ),
    "run --freeze-backbone": Case(
        base=FROM_START, other=(*FROM_START, "--freeze-backbone"), seen="weights"
    ),
    "run --head-factor": add(
        TRAIN, "--head-factor", "5",
        seen="weights", wrong=("--head-factor", "0"), says="train.head_factor 0",
    ),
    "run --root": Case(
        base=CIFAR, other=(*CIFAR[:-1], "{root_b}"), seen="data",
        wrong=(*PLAN, "--root", "{root_a}"), says="is for downloads",
    ),
    "run --on-bad-image": Case(
        base=DAMAGED, other=(*DAMAGED, "--on-bad-image", "skip"), seen="status",
        wrong=(*PLAN, "--on-bad-image", "maybe"), says="data.on_bad_image 'maybe'",
    ),
    "run --seed": add(
        TRAIN, "--seed", "1", seen="weights", wrong=("--seed", "-1"), says="'--seed'"
    ),
    "run --tensorboard": add(TRAIN, "--tensorboard", seen="files"),
    "run --until": Case(
        base=PLAN, other=TRAIN, seen="files",
        wrong=(*RUN, "--until", "lunch"), says="'lunch' is not one of",
    ),
    "run --json": add(PLAN, "--json", seen="is_json"),
    "train --status": swap(
        ("train", "--status", "{run}"), "{run}", "{run_b}", wrong="{nothing}", says=NO_RUN
    ),
    "train --more-epochs": swap(
        MORE_EPOCHS, "1", "2", seen="weights", wrong="0", says="'--more-epochs'"
    ),
    "train --json": add(("train", "--status", "{run}"), "--json", seen="is_json"),
}  # fmt: skip

# -- search ---------------------------------------------------------------------------------------

SEARCH = ("search", "{run}", "--json")
PUBLISHED = (
    *("search", "--net", OFA, "--predictor", "{predictor}"),
    *("--limit", "macs=2e8", "--json"),
)

SHIP = (
    *("search", "--net", OFA, "--predictor", "{predictor}"),
    *("--limit", "macs=1.6e8", "--ship", "--weights", "{ofa_weights}", "--data", "{thousand}"),
    *("--out", "{out}/model", "--json"),
)

SEARCHES = {
    "search RUN": swap(SEARCH, "{run}", "{run_b}", wrong="{nothing}", says=NO_RUN),
    "search --limit": add(
        SEARCH, "--limit", "macs={macs}", wrong=("--limit", "macs=0"), says="not a number above 0"
    ),
    "search --net": swap(
        PUBLISHED, OFA, "ofa_mbv3_d234_e346_k357_w1.2",
        wrong="ofa_none", says="ofa_none",
    ),
    "search --predictor": swap(
        PUBLISHED, "{predictor}", "{predictor_b}", wrong="{nothing}", says="nothing"
    ),
    "search --latency": add(
        SEARCH, "--latency", "phone={table}",
        seen="keys", wrong=("--latency", "phone={nothing}"), says="no such file",
    ),
    "search --budget": add(
        PUBLISHED, "--budget", "0.3s",
        seen="handed", wrong=("--budget", "0"), says="is not a time",
    ),
    "search --caution": add(SEARCH, "--caution", "3", wrong=("--caution", "-1"), says="--caution"),
    "search --seed": add(
        SEARCH, "--seed", "7", seen="handed", wrong=("--seed", "-1"), says="'--seed'"
    ),
    "search --ship": Case(
        base=("search", "{copy}", "--json"), other=("search", "{copy}", "--json", "--ship"),
        seen="keys",
    ),
    "search --weights": swap(
        SHIP, "{ofa_weights}", "{ofa_weights_b}", wrong="{nothing}", says="nothing"
    ),
    "search --data": swap(
        SHIP, "{thousand}", "{thousand_b}", wrong="{images}", says="has 1000 classes, "
    ),
    "search --out": swap(
        SHIP, "{out}/model", "{out}/other", seen="files", wrong="{file}/m", says="cannot be written"
    ),
    "search --json": Case(base=("search", "{run}"), other=SEARCH, seen="is_json"),
}  # fmt: skip

# -- which one ------------------------------------------------------------------------------------

CHOOSE = ("choose", "{run}", "--json")
COMPARE_RUNS = ("compare", "{run}", "{run_b}", "--json")

DECIDING = {
    "choose RUN": swap(CHOOSE, "{run}", "{run_b}", wrong="{nothing}", says=NO_RUN),
    "choose --limit": add(
        CHOOSE, "--limit", "macs={least_macs}",
        seen="limits", wrong=("--limit", "macs=1"), says="macs=1: no shipped model keeps it",
    ),
    "compare RUNS": swap(
        COMPARE_RUNS, "{run_b}", "{run}", wrong="{nothing}", says="is not a folder"
    ),
    "compare --json": Case(
        base=without(COMPARE_RUNS, "--json"), other=COMPARE_RUNS, seen="is_json"
    ),
    "choose --json": Case(base=without(CHOOSE, "--json"), other=CHOOSE, seen="is_json"),
}  # fmt: skip

# -- models ---------------------------------------------------------------------------------------

SPECIALIZE = ("specialize", "{copy}", "--arch", "{arch}", "--name", "mine", "--json")
SPECIALIZE_NET = (
    *("specialize", "--net", OFA, "--weights", "{ofa_weights}", "--data", "{thousand}"),
    *("--arch", "{ofa_arch}", "--out", "{out}/m", "--json"),
)
FINETUNE = (
    *("finetune", "{copy}", "{model_name}", "--epochs", "1", "--learning-rate", "0.01", "--json"),
)
BASELINE = ("baseline", "{copy}", "--model", "{model_name}", "--budget", "0.5s", "--json")
EXPORT = ("export", "{model}", "--out", "{out}/m")
EXPORT_NET = ("export", "proxyless_cpu", "--weights", "{zoo_weights}", "--out", "{out}/m")
VERIFY = ("verify", "{run}", "--json")

MODELS = {
    "specialize RUN": swap(
        SPECIALIZE, "{copy}", "{copy_b}", seen="shipped", wrong="{nothing}", says=NO_RUN
    ),
    "specialize --arch": swap(
        SPECIALIZE, "{arch}", "{arch_b}", wrong="{nothing}", says="no such file"
    ),
    "specialize --name": swap(
        SPECIALIZE, "mine", "yours", seen="files", wrong="a/b", says="is not a plain folder name"
    ),
    "specialize --net": Case(
        base=SPECIALIZE, other=SPECIALIZE_NET, seen="files",
        wrong=tuple("ofa_none" if word == OFA else word for word in SPECIALIZE_NET),
        says="ofa_none",
    ),
    "specialize --weights": swap(
        SPECIALIZE_NET, "{ofa_weights}", "{ofa_weights_b}", wrong="{nothing}", says="nothing"
    ),
    "specialize --data": swap(
        SPECIALIZE_NET, "{thousand}", "{thousand_b}", wrong="{images}", says="has 1000 classes, "
    ),
    "specialize --out": swap(
        SPECIALIZE_NET, "{out}/m", "{out}/n",
        seen="files", wrong="{file}/m", says="cannot be written",
    ),
    "specialize --json": Case(base=without(SPECIALIZE, "--json"), other=SPECIALIZE, seen="is_json"),
    "finetune RUN": swap(
        FINETUNE, "{copy}", "{copy_b}", "{model_name}", "{model_name_b}",
        seen="tuned", wrong="{nothing}", says=NO_RUN,
    ),
    "finetune MODEL": swap(
        FINETUNE, "{model_name}", "{model_name_2}", seen="tuned", wrong="x", says="'x' is not one"
    ),
    "finetune --all": Case(
        base=FINETUNE, other=(*without(FINETUNE, "{model_name}"), "--all"), seen="files"
    ),
    "finetune --epochs": swap(FINETUNE, "1", "2", seen="tuned", wrong="0", says="'--epochs'"),
    "finetune --learning-rate": swap(
        FINETUNE, "0.01", "0.3", seen="tuned", wrong="0", says="learning rate 0 is not above 0"
    ),
    "finetune --distill": add(FINETUNE, "--distill", seen="tuned"),
    "finetune --json": Case(base=without(FINETUNE, "--json"), other=FINETUNE, seen="is_json"),
    "baseline RUN": swap(
        BASELINE, "{copy}", "{copy_b}", "{model_name}", "{model_name_b}",
        seen="alone", wrong="{nothing}", says=NO_RUN,
    ),
    "baseline --model": swap(
        BASELINE, "{model_name}", "{model_name_2}", seen="alone", wrong="x", says="'x' is not one"
    ),
    "baseline --budget": swap(
        BASELINE, "0.5s", "0.7s", seen="alone", wrong="soon", says="'soon' is not a time"
    ),
    "baseline --json": Case(base=without(BASELINE, "--json"), other=BASELINE, seen="is_json"),
    "export MODEL": swap(
        EXPORT, "{model}", "{model_2}", seen="written", wrong="{nothing}", says="no card.json"
    ),
    "export --weights": swap(
        EXPORT_NET, "{zoo_weights}", "{zoo_weights_b}",
        seen="written", wrong="{nothing}", says="is neither a file nor official",
    ),
    "export --out": swap(
        EXPORT, "{out}/m", "{out}/n", seen="files", wrong="{world}", says="is a folder, not a file"
    ),
    "export --format": add(
        EXPORT, "--format", "config",
        seen="written", wrong=("--format", "tflite"), says="'tflite' is not one of",
    ),
    "verify FOLDERS": swap(VERIFY, "{run}", "{run_b}", wrong="{nothing}", says="neither a model"),
    "verify --json": Case(base=without(VERIFY, "--json"), other=VERIFY, seen="is_json"),
    "report RUNS": swap(
        ("report", "{copy}"), "{copy}", "{copy_b}", seen="report", wrong="{nothing}", says=NO_RUN
    ),
    "report --out": swap(
        ("report", "{run}", "{run_b}", "--out", "{out}/a.html"), "{out}/a.html", "{out}/b.html",
        seen="files", wrong="{world}", says="is a folder",
    ),
}  # fmt: skip

CASES = JOB | SEARCHES | DECIDING | MODELS | LOOKING | MEASURING


def _of_train(name: str, case: Case) -> Case:
    """Return the case of an option of ``ofa train`` that ``ofa run`` has too."""

    def spelled(command: Command) -> Command:
        ended = command.index("--until") if "--until" in command else len(command)
        return ("train", *command[1:ended], *command[ended + 2 :])

    return Case(
        base=spelled(case.base),
        other=spelled(case.other),
        seen="request",
        wrong=spelled(case.wrong) if case.wrong else (),
        says=case.says,
    )


_OF_RUN_ALONE = ("--limit", "--until", "--json")
CASES |= {
    name.replace("run", "train", 1): _of_train(name, case)
    for name, case in JOB.items()
    if name.startswith("run ") and name.partition(" ")[2] not in _OF_RUN_ALONE
}

# Options that would be ignored in the company that they are in.
IDLE = {
    "a fresh head of a fresh network": ((*TRAIN, "--reinit-head"), "need --init"),
    "a phase of a fresh network": ((*TRAIN, "--start-at", "full"), "needs --init FILE"),
    "a model of all": ((*FINETUNE, "--all"), "needs either a MODEL or --all"),
    "a comparison of one": (("compare", "{run}"), "1 run is nothing to compare"),
    "weights of a run's search": ((*SEARCH, "--weights", "x"), "goes with --net and --ship"),
    "shipping with nothing to ship": (
        (*PUBLISHED, "--ship"), "needs --weights and --data and --out too",
    ),
    "weights of a run's subnet": ((*SPECIALIZE, "--weights", "x"), "goes with --net"),
    "a network beside a run": ((*SPECIALIZE, "--net", OFA), "needs either a RUN or --net"),
    "a name beside a folder": ((*SPECIALIZE_NET, "--name", "x"), "--name goes with a RUN"),
    "a subnet without images": (
        without(SPECIALIZE_NET, "--data", "{thousand}"), "needs --data too",
    ),
    "weights beside a model": (
        (*EXPORT, "--weights", "{weights}"), "has weights of its own",
    ),
    "a supernet in another form": (
        ("export", OFA, "--out", "{out}/m"), "first cut a network out of it",
    ),
    "a configuration alone": (
        ("export", "{net_config}", "--out", "{out}/m"), "--weights FILE is needed with it",
    ),
    "a model where one is": (
        tuple("{model}" if word == "{out}/model" else word for word in SHIP),
        "holds a model already",
    ),
    "two networks": (
        (*NET, "--until", "plan", "--static", "mobilenet_v2"), "are two networks: give one",
    ),
    "a scale of no length": (
        (*OPEN_PLAN, "--epochs-scale", "0.5"), "shortens a length, and none is given",
    ),
    "a frozen backbone of a fresh network": ((*TRAIN, "--freeze-backbone"), "need --init"),
    "effort beside a time": ((*OPEN_PLAN, "--budget", "60s", "--effort", "best"), "has no effect"),
    "effort beside epochs": ((*PLAN, "--effort", "best"), "has no effect where epochs and network"),
    "status of a training beside its options": (
        ("train", "--status", "{run}", "--seed", "1"), "takes no --seed",
    ),
    "more epochs with other settings": ((*MORE_EPOCHS, "--seed", "1"), "takes no --seed"),
    "more epochs of nothing": (("train", "{nothing}", "--more-epochs", "1"), NO_RUN),
    "more epochs of a run that has none": (
        ("train", "{planned}", "--more-epochs", "1"), "is not trained yet"
    ),
    "another training in the same folder": (
        ("run", "{images}", "--out", "{run}", "--set", "train.epochs=9"), "that would train anew",
    ),
    "another seed in the same folder": (
        ("run", "{images}", "--out", "{run}", "--seed", "9"), "was started with seed 0, not 9",
    ),
    "another data set in the settings": ((*PLAN, "--set", "data.source=digits"), "data.source"),
    "an arch of a network that has one": ((*STATIC, "--arch", "{arch}"), "is not a supernet"),
    "calibration of a network": ((*STATIC, "--calibration", "9"), "is not a supernet: calibration"),
    "weights of a run": ((*EVAL, "--weights", "{weights}"), "has weights of its own"),
    "threads of a GPU": (
        (*BUILD, "--target", "torch-cuda", "--threads", "2"), "threads 2 are of a processor",
    ),
    "the name of the measurements": (
        ("latency", "build", "{run}", "--out", "{out}/t.jsonl"), "end it in .json",
    ),
    "a bound that is no number": ((*SEARCH, "--limit", "macs=1e6,nan"), "is not of the form"),
    "a mean that is no number": ((*STATIC, "--mean", "nan,0,0"), "finite numbers"),
    "two bounds of a run": ((*PLAN, "--limit", "macs=1,2"), "has 2 bounds"),
    "a GPU that is not there": ((*EVAL, "--device", "cuda:9"), "none with number 9"),
    # What would stop a run after its training.
    "a target in the settings": ((*PLAN, "--set", "latency.target=tpu"), "'tpu' is not one of"),
    "more held out than there are": ((*PLAN, "--set", "data.num_valid=1000"), "num_valid 1000"),
    "a limit that no subnet keeps": ((*PLAN, "--limit", "macs=10"), "macs=10 cannot be kept"),
    "a policy for photographs": (
        (*PLAN, "--set", "data.policy=randaugment"), "data.policy randaugment needs photographs",
    ),
    "a deviation of nothing": ((*PLAN, "--set", "data.std=[0,1,1]"), "data.std.0 0"),
    "a network of nothing": ((*PLAN, "--set", "supernet.widths=[]"), "supernet.widths []"),
    "channels kept whole below nothing": (
        (*PLAN, "--set", "supernet.whole_below=-1"),
        "supernet.whole_below -1",
    ),
    "a divisor of nothing": ((*PLAN, "--set", "supernet.divisor=0"), "supernet.divisor 0"),
    "epochs without end": ((*PLAN, "--set", "train.epochs=.inf"), "train.epochs inf"),
    "a seed that no generator takes": ((*PLAN, "--seed", str(2**63)), "'--seed'"),
}  # fmt: skip
