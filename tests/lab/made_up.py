"""Complete runs on images with curves of one's choosing."""

from functools import partial

from linear_backprop_lab.records import Run


def sweep_config(
    rule,
    *,
    experiment="vgg19",
    data="cifar10",
    activation="Tanh",
    batch_norm=True,
    learning_rate=0.01,
    penalty=0.001,
    seed=0,
    epochs=3,
    train_images=2000,
    held_out_images=100,
    initialization="he",
    augment=True,
    width=0.5,
):
    vgg19 = {"batch_norm": batch_norm, "width": width, "initialization": initialization}
    network = {"inflate": 1} if experiment == "bnn" else vgg19
    recipe = {"batch_size": 128, "learning_rate": learning_rate, "weight_decay": penalty, "seed": seed}
    return {
        "experiment": experiment,
        "data": data,
        "train_images": train_images,
        "held_out_images": held_out_images,
        "test_images": 1000,
        "model": {"name": "made-up", "activation": activation, "classes": 10, **network},
        "rule": rule,
        "recipe": {**recipe, "precision": "float32", "augment": augment, "epochs": epochs},
    }


_FIRST_LOOK = {"experiment": "images", "train_images": 5000, "held_out_images": 0, "penalty": 0.0}
image_config = partial(sweep_config, **_FIRST_LOOK)


def unfinished(run):
    """The run without its closing record, as if it went on."""
    for name in ("record.json", "SHA256SUMS"):
        (run.folder / name).unlink()
    return run


def sweep_run(root, rule, accuracies, *, epochs=None, held_out=None, losses=None, norms=(1.0, 1.0), **settings):
    """A complete run of a sweep with the test accuracies of `accuracies`, an epoch each.

    Its Precision@5 error is half of what top-1 has wrong; `norms` are Backprop's gradient at the lowest and at the
    highest weight, Linear Backprop's are 1 everywhere.
    """
    config = sweep_config(rule, epochs=epochs or len(accuracies), **settings)
    run = Run(root, config)
    run.start()
    losses = losses or [2.0] * len(accuracies)
    for epoch, (accuracy, loss) in enumerate(zip(accuracies, losses, strict=True), start=1):
        chosen_on = (held_out or accuracies)[epoch - 1]
        held_out_line = {"held_out_accuracy": chosen_on, "held_out_top5_error": (1 - chosen_on) / 2}
        run.log(
            epoch=epoch,
            train_loss=loss,
            test_loss=loss,
            test_accuracy=accuracy,
            test_top5_error=(1 - accuracy) / 2,
            **(held_out_line if config["held_out_images"] else {}),
            saturation=[0.25, 0.5],
            gradient_norm_backprop=list(norms),
            gradient_norm_linear=[1.0, 1.0],
            cosine=0.5,
            seconds=1,
        )
    status = "diverged" if losses[-1] is None else "finished"
    run.close(source="made up", status=status, epochs=len(accuracies), seconds=len(accuracies))
    return run


def image_run(root, rule, curve, **settings):
    """A complete run of the experiment `images`, its epochs (training loss, test accuracy); no loss is divergence."""
    losses, accuracies = zip(*curve, strict=True)
    return sweep_run(root, rule, accuracies, epochs=3, losses=losses, **(_FIRST_LOOK | settings))
