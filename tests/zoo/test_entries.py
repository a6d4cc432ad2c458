"""The table of published networks: complete, recomputed, and honest about its misprint."""

from __future__ import annotations

import re

import pytest

from onceforall.arch import Arch
from onceforall.errors import ZooError
from onceforall.measure.costs import count_macs, count_params
from onceforall.supernets.families import published_spec
from onceforall.zoo import find_entry, verify, zoo_entries
from onceforall.zoo.entries import display_alias
from onceforall.zoo.verify import entry_costs
from tests.shared_data import shared_data

ENTRIES = zoo_entries()
SPECIALIZED = [e for e in ENTRIES.values() if e.kind == "specialized"]
DECODED = [e for e in SPECIALIZED if e.arch is not None]


def test_everything_published_is_there() -> None:
    kinds = [entry.kind for entry in ENTRIES.values()]
    assert (kinds.count("supernet"), kinds.count("proxylessnas")) == (4, 4)
    assert (len(SPECIALIZED), len(DECODED)) == (58, 50)


@pytest.mark.parametrize("net_id", ENTRIES)
def test_every_entry_is_complete(net_id: str) -> None:
    entry = ENTRIES[net_id]
    assert entry.licence
    assert entry.provenance
    for file in entry.files:
        assert file.url.startswith("https://")
        assert ".." not in file.cache_path
        assert file.git_blob_sha1 is None or re.fullmatch("[0-9a-f]{40}", file.git_blob_sha1)
    if entry.kind != "supernet":
        assert entry.published.params_millions
        assert entry.published.macs_millions
    if entry.kind == "specialized":
        figures = entry.published
        assert 0.70 <= figures.top1 < figures.top5 < 0.96
        assert f"top1@{100 * figures.top1:.1f}" in net_id
        assert entry.alias is not None


@pytest.mark.parametrize("entry", DECODED, ids=lambda e: e.id)
def test_every_arch_is_a_subnet_with_the_published_costs(entry: object) -> None:
    space = published_spec(entry.supernet).space
    elastic = Arch.from_json({**entry.arch.to_json(), "resolution": space.resolutions[-1]})
    assert space.contains(elastic)
    plan = entry.blueprint()
    # Published to one decimal, resp. whole millions; some of the latter are rounded up.
    assert abs(count_params(plan) / 1e6 - entry.published.params_millions) < 0.1
    macs = count_macs(plan, resolution=entry.resolution)
    if entry.id == "note10_lat@8ms_top1@71.4_finetune@25":
        assert entry.misprints == ("macs_millions",)
        assert entry.published.macs_millions == 79
        assert macs == 75_802_880
    else:
        assert entry.misprints == ()
        assert abs(macs / 1e6 - entry.published.macs_millions) < 1


@pytest.mark.parametrize(
    ("net_id", "params", "macs_millions"),
    [
        ("proxyless_cpu", 4_361_648, 439.24),
        ("proxyless_gpu", 7_119_848, 465.26),
        ("proxyless_mobile", 4_080_512, 320.43),
        ("proxyless_mobile_14", 6_857_568, 580.88),
    ],
)
def test_proxylessnas_networks_have_the_published_costs(
    net_id: str, params: int, macs_millions: float
) -> None:
    found = entry_costs(ENTRIES[net_id])
    assert found is not None
    assert found[0] == params
    assert round(found[1] / 1e6, 2) == macs_millions


def test_checksums_are_those_of_the_released_files() -> None:
    lines = (
        shared_data("published", "official_checkpoint_git_blob_sha1.txt").read_text().split("\n")
    )
    released = {path: sha1 for sha1, path in (line.split() for line in lines if line)}
    known = 0
    for entry in ENTRIES.values():
        for file in entry.files:
            path = file.url.partition("/master/")[2]
            assert released.get(path) == file.git_blob_sha1
            known += file.git_blob_sha1 is not None
    assert known == 3 + 50 + 4


@pytest.mark.parametrize(
    ("net_id", "alias"),
    [
        ("flops@595M_top1@80.0_finetune@75", "ofa-595M"),
        ("LG-G8_lat@24ms_top1@76.4_finetune@25", "ofa-lg-24"),
        ("s7edge_lat@88ms_top1@76.3_finetune@25", "ofa-s7edge-88"),
        ("note8_lat@65ms_top1@76.1_finetune@25", "ofa-note8-65"),
        ("note10_lat@64ms_top1@80.2_finetune@75", "ofa-note10-64"),
        ("note10_lat@8ms_top1@71.4_finetune@25", "ofa-note10-08"),
        ("pixel1_lat@143ms_top1@80.1_finetune@75", "ofa-pixel1-143"),
        ("1080ti_gpu64@27ms_top1@76.4_finetune@25", "ofa-1080ti-27"),
        ("v100_gpu64@9ms_top1@75.3_finetune@25", "ofa-v100-09"),
        ("tx2_gpu16@96ms_top1@75.8_finetune@25", "ofa-tx2-96"),
        ("cpu_lat@17ms_top1@75.7_finetune@25", "ofa-cpu-17"),
        ("resnet50D_MAC@4.1B_top1@79.8", "ofa-resnet50D-41"),
        ("resnet50D_MAC@0.6B_top1@75.0_finetune@25", "ofa-resnet50D-06"),
    ],
)
def test_aliases_are_the_published_ones(net_id: str, alias: str) -> None:
    assert ENTRIES[net_id].alias == alias
    assert find_entry(alias) is ENTRIES[net_id]


def test_aliases_are_distinct() -> None:
    assert len({entry.alias for entry in SPECIALIZED}) == 58
    with pytest.raises(ZooError, match="is not the id of a specialised network"):
        display_alias("ofa_resnet50")


def test_unknown_ids_name_the_nearest() -> None:
    with pytest.raises(
        ZooError, match="no published network 'ofa-note10-23'; the nearest are ofa-n"
    ):
        find_entry("ofa-note10-23")
    with pytest.raises(
        ZooError, match=r"no published supernet 'ofa_mbv3_w1.0'; the nearest are ofa"
    ):
        find_entry("ofa_mbv3_w1.0", "supernet")
    with pytest.raises(ZooError, match="no published supernet 'ofa-note10-22'"):
        find_entry("ofa-note10-22", "supernet")


def test_verification_finds_the_misprint_and_nothing_else(
    tmp_path: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ONCEFORALL_HOME", str(tmp_path))
    checks = verify()
    assert {check.id for check in checks} == set(ENTRIES)
    wrong = [check for check in checks if check.status not in ("ok", "absent")]
    assert [(check.id, check.name, check.status) for check in wrong] == [
        ("note10_lat@8ms_top1@71.4_finetune@25", "macs_millions", "misprint")
    ]
    assert (wrong[0].expected, wrong[0].found) == ("79", "75.802880")
    tensors = [check for check in checks if check.name == "tensors"]
    assert [check.found for check in tensors] == ["475", "475", "446", "368"]
    with pytest.raises(ZooError, match="no published network 'x'"):
        verify("x")


def test_verification_looks_at_cached_files(
    tmp_path: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ONCEFORALL_HOME", str(tmp_path))
    entry = ENTRIES["proxyless_cpu"]
    path = tmp_path / "zoo" / entry.file("weights").cache_path
    path.parent.mkdir(parents=True)
    path.write_bytes(b"damaged")
    by_name = {check.name: check.status for check in verify("proxyless_cpu")}
    assert by_name["file weights"] == "differs"


def test_archs_of_one_id_differ_by_resolution_only_where_published_so() -> None:
    """Several ids share an architecture at different resolutions."""
    pairs = [
        ("LG-G8_lat@24ms_top1@76.4_finetune@25", "pixel2_lat@62ms_top1@75.8_finetune@25"),
        ("v100_gpu64@9ms_top1@75.3_finetune@25", "tx2_gpu16@80ms_top1@75.4_finetune@25"),
        ("note8_lat@22ms_top1@70.4_finetune@25", "pixel1_lat@20ms_top1@71.4_finetune@25"),
    ]
    for first, second in pairs:
        assert ENTRIES[first].arch.key[1:] == ENTRIES[second].arch.key[1:]
    beyond = {entry.resolution for entry in DECODED if entry.resolution > 224}
    assert beyond == {228, 236, 240, 260}
