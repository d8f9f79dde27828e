"""The contenders and loads of each section."""

from bench.sections import AUDIT, PROXIES, RULES, SECTIONS, contenders, unit_of


def test_a_section_can_be_cut_down() -> None:
    """Only what is named is left; naming nothing leaves everything."""
    proxies = next(part for part in SECTIONS if part.name == PROXIES)
    cut = proxies.only(["socat", "criproxy-deny"], ["go-1"])
    assert [which.name for which in cut.contenders] == ["socat"]
    assert [load.name for load in cut.loads] == ["go-1"]
    assert len(proxies.only([], []).contenders) == len(proxies.contenders)


def test_names_mean_one_thing() -> None:
    """A contender in two sections is the same; a load is in one, and its unit is compared there."""
    everyone = [which for part in SECTIONS for which in part.contenders]
    assert {which.name: which for which in everyone}.keys() == {one.name for one in everyone}
    assert all(which in contenders(SECTIONS) for which in everyone)
    loads = [load.name for part in SECTIONS for load in part.loads]
    assert len(set(loads)) == len(loads)
    for part in SECTIONS:
        assert part.unit in {which.name for which in part.contenders}
        assert {unit_of(load.name) for load in part.loads} == {part.unit}
    assert [part.name for part in SECTIONS] == [PROXIES, RULES, AUDIT]
