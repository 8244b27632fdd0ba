"""`stage export --push`, and models by their hub id: huggingface_hub's own calls, to a hub of this machine."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from stages.cli.main import main
from stages.hub import hub_repository
from stages.hub.sound_tokenizer import SoundTokenizer
from tests.stages.cli.trained_run import QUESTION, output
from tests.stages.hub.hub_server import COMMIT, TOKEN, Hub, hub


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """What huggingface_hub reads of the environment when it is imported, set to this hub and an empty cache."""
    with hub() as one:
        for name, value in {
            "ENDPOINT": one.address,
            "HUGGINGFACE_CO_URL_TEMPLATE": one.address + "/{repo_id}/resolve/{revision}/{filename}",
            "HF_HUB_CACHE": str(tmp_path / "hub"),
            "HF_HUB_DISABLE_XET": True,
            "HF_HUB_OFFLINE": False,
        }.items():
            monkeypatch.setattr(f"huggingface_hub.constants.{name}", value)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield one


@pytest.mark.slow
def test_an_export_is_pushed_and_used_by_its_id(here: Hub, run, folder_with_run: Path, clip: Path, capsys):
    assert main(["ask", str(clip), QUESTION, "--experiment=used"]) == 0
    wanted = output(capsys)
    assert main(["export", "--to=out", "--push=me/noise", "--private"]) == 0
    printed = capsys.readouterr()
    assert f"out: pushed, {here.address}/me/noise/commit/{COMMIT}" in printed.out
    assert "names no licence yet: edit out/README.md" in printed.err
    files = {str(path.relative_to("out")): path.read_bytes() for path in Path("out").rglob("*") if path.is_file()}
    assert here.repositories["me/noise"] == files and here.private == {"me/noise": True}
    assert here.objects, "weights went by LFS"

    assert main(["ask", str(clip), QUESTION, "--model=me/noise"]) == 0
    assert output(capsys) == wanted
    hashes = {SoundTokenizer.from_pretrained(source).hash for source in ("me/noise", "out", run / "tokenizer")}
    assert len(hashes) == 1

    card = Path("out/README.md")
    card.write_text(card.read_text().replace("license_name: FILL-IN", "license_name: apache-2.0"))
    assert main(["export", "--to=out", "--push=me/noise"]) == 0, "as it is there, and to the repository that is there"
    printed = capsys.readouterr()
    assert b"license_name: apache-2.0" in here.repositories["me/noise"]["README.md"]
    assert "licence" not in printed.err and "see its README" not in printed.out


def test_what_the_hub_refuses_is_one_message(here: Hub, folder_with_run: Path, clip: Path, monkeypatch, capsys):
    Path("out").mkdir()
    Path("out/make_some_noise.json").write_text("{}")
    Path("out/README.md").write_text("")
    monkeypatch.setenv("HF_TOKEN", "hf_another")
    assert main(["export", "--to=out", "--push=me/noise"]) == 1
    assert "--push me/noise: the hub refused it" in (error := capsys.readouterr().err) and "hf auth login" in error
    assert here.repositories == {}
    assert main(["export", "--to=out", "--push=noise"]) == 1
    assert "--push noise: type OWNER/NAME" in capsys.readouterr().err
    assert main(["export", "--to=out", "--private"]) == 1
    assert "--private is for --push" in capsys.readouterr().err
    assert main(["ask", str(clip), QUESTION, "--model=me/nothing"]) == 1
    assert "no model at 'me/nothing'" in capsys.readouterr().err
    assert main(["ask", str(clip), QUESTION, "--model=runs/nothing"]) == 1
    assert "--model runs/nothing is no folder" in capsys.readouterr().err, "a misspelt path is no id"


def test_an_id_is_an_owner_and_a_name(folder_with_run: Path):
    assert hub_repository.is_hub_id("me/noise") and hub_repository.is_hub_id("a-b/c.d-e_1")
    for name in ("noise", "runs/used", "a/b/c", "../noise", "/noise", "me/", "~/noise"):
        assert not hub_repository.is_hub_id(name)
