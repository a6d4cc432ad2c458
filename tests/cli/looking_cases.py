"""The case of every option of the verbs that look and measure."""

from __future__ import annotations

from tests.cli.option_case import NO_RUN, Case, add, swap, without

# -- looking --------------------------------------------------------------------------------------

OF_RUN = ("eval", "{images}", "--net", "{run}", "--json")
EVAL = (*OF_RUN, "--arch", "{arch}")
STATIC = ("eval", "{images}", "--net", "{model}", "--json")
CONFIG = ("eval", "{images}", "--net", "{net_config}", "--weights", "{weights}", "--json")
PICTURES = ("eval", "{pictures}", "--net", "{run}", "--arch", "{arch}", "--json")
TEN = (
    *("eval", "cifar10", "--net", "{ten}", "--arch", "{arch}"),
    *("--json", "--root", "{root_a}"),
)
DATA = ("data", "{images}", "--json")
INSPECT = ("inspect", "torchvision:squeezenet1_1", "--resolution", "64")

LOOKING = {
    " --version": Case(base=("zoo", "list"), other=("--version",)),
    "eval DATA": swap(EVAL, "{images}", "{images_b}", wrong="a/b", says="no such folder"),
    "eval --net": swap(STATIC, "{model}", "{model_2}", wrong="{nothing}", says="nothing"),
    "eval --weights": Case(
        base=CONFIG, other=tuple("{weights_b}" if w == "{weights}" else w for w in CONFIG),
        wrong=(*STATIC, "--weights", "{weights}"), says="has weights of its own",
    ),
    "eval --arch": swap(EVAL, "{arch}", "{arch_b}", wrong="{nothing}", says="no such file"),
    "eval --resolution": add(
        EVAL, "--resolution", "12", wrong=("--resolution", "4"), says="'--resolution'"
    ),
    "eval --seed": Case(
        base=OF_RUN, other=(*OF_RUN, "--seed", "1"),
        wrong=(*STATIC, "--seed", "1"), says="is not a supernet: a seed means nothing",
    ),
    "eval --calibration": add(
        EVAL, "--calibration", "20", wrong=("--calibration", "1"), says="'--calibration'"
    ),
    "eval --mean": add(STATIC, "--mean", "5,5,5", wrong=("--mean", "5,5"), says="has 2 values"),
    "eval --std": add(
        STATIC, "--std", "100,100,100", wrong=("--std", "0,1,1"), says="is not above 0"
    ),
    "eval --device": add(
        EVAL, "--device", "cpu",
        seen="device", wrong=("--device", "tpu"), says="'tpu' is not one of cpu, cuda",
    ),
    "eval --batch-size": add(
        EVAL, "--batch-size", "7",
        seen="handed", wrong=("--batch-size", "0"), says="'--batch-size'",
    ),
    "eval --workers": Case(
        base=PICTURES, other=(*PICTURES, "--workers", "1"), seen="handed",
        wrong=(*EVAL, "--workers", "1"), says="is in memory",
    ),
    "eval --root": Case(
        base=TEN, other=(*TEN[:-1], "{root_b}"),
        wrong=(*EVAL, "--root", "{root_a}"), says="is for downloads",
    ),
    "eval --on-bad-image": Case(
        base=tuple("{damaged}" if w == "{pictures}" else w for w in PICTURES),
        other=(
            *("{damaged}" if w == "{pictures}" else w for w in PICTURES), "--on-bad-image", "skip",
        ),
        seen="status", wrong=(*EVAL, "--on-bad-image", "maybe"), says="'maybe' is not one of",
    ),
    "eval --json": Case(base=without(STATIC, "--json"), other=STATIC, seen="is_json"),
    "inspect NET": swap(
        INSPECT, "torchvision:squeezenet1_1", "torchvision:alexnet", wrong="squeezenet1_1",
        says="is not torchvision:NAME",
    ),
    "inspect --resolution": swap(INSPECT, "64", "72", wrong="4", says="'--resolution'"),
    "inspect --classes": add(
        INSPECT, "--classes", "7", wrong=("--classes", "1"), says="'--classes'"
    ),
    "inspect --json": add(INSPECT, "--json", seen="is_json"),
    "data DATA": swap(DATA, "{images}", "{images_b}", wrong="a/b", says="no such folder"),
    "data --root": Case(
        base=("data", "cifar10", "--root", "{root_a}"),
        other=("data", "cifar10", "--root", "{root_b}"),
        wrong=(*DATA, "--root", "{root_a}"), says="is for downloads",
    ),
    "data --on-bad-image": Case(
        base=("data", "{damaged}"), other=("data", "{damaged}", "--on-bad-image", "skip"),
        seen="status", wrong=(*DATA, "--on-bad-image", "maybe"), says="'maybe' is not one of",
    ),
    "data --json": Case(base=without(DATA, "--json"), other=DATA, seen="is_json"),
    "zoo list --json": add(("zoo", "list"), "--json", seen="is_json"),
    "zoo show NET_ID": swap(
        ("zoo", "show", "ofa-note10-22"), "ofa-note10-22", "proxyless_cpu", wrong="x", says="'x'"
    ),
    "zoo show --json": add(("zoo", "show", "proxyless_cpu"), "--json", seen="is_json"),
    "zoo verify NET_IDS": swap(
        ("zoo", "verify", "proxyless_cpu", "--json"), "proxyless_cpu", "proxyless_gpu",
        wrong="x", says="'x'",
    ),
    "zoo verify --json": add(("zoo", "verify", "proxyless_cpu"), "--json", seen="is_json"),
}  # fmt: skip

# -- devices and predictors -----------------------------------------------------------------------

BUILD = ("latency", "build", "{run}", "--out", "{out}/t.json", "--budget", "1s", "--json")
SHOW = ("latency", "show", "{table}", "--json")
COMPARE = ("latency", "compare", "{table}", "{table_b}", "--json")
MORE = ("predictor", "build", "{copy}", "--archs", "30", "--json")
FIT = ("predictor", "train", "{copy}", "--json")
JUDGE = ("predictor", "eval", "{run}", "--json")

MEASURE = ("latency", "measure", "{model}", "--rounds", "2", "--json")

MEASURING = {
    "latency measure MODELS": swap(
        MEASURE, "{model}", "{model_2}", wrong="{nothing}", says="No such file"
    ),
    "latency measure --target": add(
        MEASURE, "--target", "torch-cpu",
        seen="target", wrong=("--target", "tpu"), says="'tpu' is not one of",
    ),
    "latency measure --threads": add(
        MEASURE, "--threads", "2", wrong=("--threads", "0"), says="'--threads'"
    ),
    "latency measure --rounds": swap(
        MEASURE, "2", "3", seen="rounds", wrong="1", says="'--rounds'"
    ),
    "latency measure --json": Case(base=without(MEASURE, "--json"), other=MEASURE, seen="is_json"),
    "latency build NET": swap(
        BUILD, "{run}", "{planned}", seen="handed", wrong="ofa_none", says="ofa_none"
    ),
    "latency build --out": swap(
        BUILD, "{out}/t.json", "{out}/u.json", seen="files", wrong="{world}", says="is a folder"
    ),
    "latency build --target": add(
        BUILD, "--target", "torch-cpu",
        seen="handed", wrong=("--target", "tpu"), says="'tpu' is not one of",
    ),
    "latency build --threads": add(
        BUILD, "--threads", "2", seen="handed", wrong=("--threads", "0"), says="'--threads'"
    ),
    "latency build --budget": swap(
        BUILD, "1s", "2s", seen="handed", wrong="soon", says="'soon' is not a time"
    ),
    "latency build --seed": add(
        BUILD, "--seed", "1", seen="handed", wrong=("--seed", "-1"), says="'--seed'"
    ),
    "latency build --json": Case(base=without(BUILD, "--json"), other=BUILD, seen="is_json"),
    "latency list FOLDER": swap(
        ("latency", "list", "{run}"), "{run}", "{run_b}", wrong="{nothing}", says="holds no latency"
    ),
    "latency list --json": add(("latency", "list", "{run}"), "--json", seen="is_json"),
    "latency show TABLE": swap(
        SHOW, "{table}", "{table_b}", wrong="{nothing}", says="no such file"
    ),
    "latency show --net": add(
        SHOW, "--net", "{planned}", wrong=("--net", "ofa_none"), says="ofa_none"
    ),
    "latency show --json": Case(base=without(SHOW, "--json"), other=SHOW, seen="is_json"),
    "latency compare FIRST": swap(
        COMPARE, "{table}", "{table_b}", wrong="{nothing}", says="no such file"
    ),
    "latency compare SECOND": swap(
        COMPARE, "{table_b}", "{table}", wrong="{nothing}", says="no such file"
    ),
    "latency compare --json": Case(base=without(COMPARE, "--json"), other=COMPARE, seen="is_json"),
    "predictor build RUN": swap(MORE, "{copy}", "{copy_b}", wrong="{nothing}", says=NO_RUN),
    "predictor build --archs": swap(MORE, "30", "31", wrong="29", says="'--archs'"),
    "predictor build --json": Case(base=without(MORE, "--json"), other=MORE, seen="is_json"),
    "predictor train RUN": swap(FIT, "{copy}", "{copy_b}", wrong="{nothing}", says=NO_RUN),
    "predictor train --json": Case(base=without(FIT, "--json"), other=FIT, seen="is_json"),
    "predictor eval RUN": swap(JUDGE, "{run}", "{run_b}", wrong="{nothing}", says=NO_RUN),
    "predictor eval --json": Case(base=without(JUDGE, "--json"), other=JUDGE, seen="is_json"),
}  # fmt: skip
