"""``effnet-zoo inspect``"""

from effnet_zoo.cli import options
from effnet_zoo.cli.output import AsJson, print_facts, print_json


def inspect(
    place: options.Place, variant: options.Variant = None, no_ema: options.NoEma = False, as_json: AsJson = False
) -> None:
    """Show what a weight file is: layout, variant, classes, preprocessing. Show what is only assumed, too.

    effnet-zoo inspect checkpoint.pth.tar

    effnet-zoo inspect timm/efficientnet_b0.ra_in1k --json
    """
    from effnet_zoo.transfer.conversion import summary
    from effnet_zoo.transfer.opening import open_package

    found = summary(open_package(place, variant=variant, ema=not no_ema))
    if as_json:
        print_json(found)
        return
    how = found["preprocessing"]
    print_facts(
        {
            "source": found["source"],
            "layout": found["layout"],
            "variant": found["variant"],
            "classes": str(found["num_classes"]),
            "channels": str(found["in_chans"]),
            "seen": "; ".join(found["seen"]),
            "assumed": "; ".join(found["assumed"]) or "nothing",
            "left out": "; ".join(f"{key} ({reason})" for key, reason in found["dropped"].items()) or "nothing",
            "images": ", ".join(f"{key} {value}" for key, value in how.items())
            if how
            else "unknown: give convert --mean and --std, or --like CHECKPOINT",
        }
    )
