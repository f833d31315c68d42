"""`arl tasks list`: the training images of a task, for packing a corpus that holds none of what is tested on."""

from collections.abc import Sequence
from dataclasses import replace

from arl_lightning.data.wording import count
from arl_lightning.downstream.command import parse
from arl_lightning.downstream.encoders import PIXELS
from arl_lightning.downstream.material import open_material
from arl_lightning.downstream.trials import trials
from arl_lightning.errors import UserError


def training_list(arguments: Sequence[str]) -> str:
    """Write the names of a task's training files, one a line, as the specs of busi and pocus want them.

    Args:
        arguments: Those of `arl finetune`; `--out` is the file.

    Raises:
        UserError: If the set cannot be used, there is no `--out`, or folds leave no image out of all tests.
    """
    recipe = parse("finetune", arguments)
    if recipe.out is None:
        raise UserError("--out: missing; name the text file to write, such as busi_train.txt")
    if recipe.folds:
        raise UserError("--folds: every image is tested on once, so none may be packed; leave it out")
    material = open_material(replace(recipe, checkpoint=PIXELS), with_masks=False)
    cases = material.listing.cases
    split = trials(cases, recipe, material.images.groups, material.listing.classes)[0].split
    trained = sorted({cases[place].path.name for place in split.train})
    kept_out = {cases[place].path.name for part in (split.val, split.test) for place in part}
    if both := sorted(kept_out & set(trained)):
        raise UserError(f"{both[0]}: names a file of several parts in several folders; rename the files")
    temporary = recipe.out.with_name(f"{recipe.out.name}.tmp")
    temporary.write_text("".join(f"{name}\n" for name in trained), encoding="utf-8")
    temporary.replace(recipe.out)
    return f"{count(len(trained), 'training file')} of {recipe.task} in {recipe.out}; {len(kept_out):,} are kept out"
