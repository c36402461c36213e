from fgvc_lib.datasets import open_splits
from fgvc_lib.explorer import ALL, FUSED, controls, view
from fgvc_lib.training import fit, load_model


def test_controls_change_the_picture(tiny):
    model, (_, test) = load_model(fit(tiny, progress=False)), open_splits(tiny)
    box = controls(model, test, tiny)
    (image, fusion), (layer, head), picture = box.children[0].children, box.children[1].children, box.children[2]
    seen = {bytes(picture.value)}
    for widget, value in ((image, 3), (layer, 2), (head, 4), (layer, FUSED), (fusion, "add"), (head, ALL)):
        widget.value = value
        seen.add(bytes(picture.value))
    assert len(seen) == 7 and all(png.startswith(b"\x89PNG") for png in seen)


def test_a_view_names_what_it_shows(tiny):
    model, (_, test) = load_model(fit(tiny, progress=False)), open_splits(tiny)
    figure = view(model, test, tiny, index=1, layer=3, head=2)
    assert figure.axes[1].get_title() == "layer 3, head 2"
    assert "true: Class 1" in figure.get_suptitle()
