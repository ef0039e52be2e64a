"""ONNX files with the inputs and outputs of the real networks: names, shapes, types.

They give a part of their input, or what the test puts into them.
"""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

MEAN, STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])


def save(path, nodes, takes, gives, constants=()):
    graph = helper.make_graph(
        nodes,
        "made-in-a-test",
        [helper.make_tensor_value_info(*takes)],
        [helper.make_tensor_value_info(*each) for each in gives],
        [numpy_helper.from_array(value, name) for name, value in constants],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    onnx.save(model, path)


def save_matte(path, output_type=TensorProto.FLOAT16):
    """BEN2's shape: `1 x 3 x 1024 x 1024` in, its red channel out as the map."""
    nodes = [
        helper.make_node("Slice", ["input", "from", "to", "axis"], ["red"]),
        helper.make_node("Cast", ["red"], ["output"], to=output_type),
    ]
    ends = [
        (name, np.array([value], np.int64)) for name, value in (("from", 0), ("to", 1), ("axis", 1))
    ]
    takes = ("input", TensorProto.FLOAT, [1, 3, 1024, 1024])
    save(path, nodes, takes, [("output", output_type, [1, 1, 1024, 1024])], ends)


def save_convolution(path, before):
    """BEN2's shape again: a convolution that takes the red channel, after the `before` nodes."""
    red = np.zeros((1, 3, 1, 1), np.float32)
    red[0, 0] = 1
    nodes = [*before, helper.make_node("Conv", [before[-1].output[0], "red"], ["output"])]
    channels = {
        "mean": MEAN,
        "deviation": STD,
        "less mean": -MEAN,
        "inverse deviation": 1 / STD,
        "half": np.full(3, 0.5),
    }
    constants = [
        (name, value.reshape(1, 3, 1, 1).astype(np.float32)) for name, value in channels.items()
    ]
    takes = ("input", TensorProto.FLOAT, [1, 3, 1024, 1024])
    gives = [("output", TensorProto.FLOAT, [1, 1, 1024, 1024])]
    save(path, nodes, takes, gives, [*constants, ("red", red)])


def anchors(height, width):
    """RetinaFace's anchors as in its paper's code: centre and side in shares of the image."""
    rows = []
    for step, sides in ((8, (16, 32)), (16, (64, 128)), (32, (256, 512))):
        for y in range(-(-height // step)):
            for x in range(-(-width // step)):
                for side in sides:
                    centre = ((x + 0.5) * step / width, (y + 0.5) * step / height)
                    rows.append((*centre, side / width, side / height))
    return np.array(rows)


def save_faces(path, faces, height, width, fixed=False):
    """RetinaFace's shape, with these `(landmarks, box, score)` whatever it looks at."""
    priors = anchors(height, width)
    boxes = np.zeros((1, len(priors), 4), np.float32)
    scores = np.tile(np.float32([1, 0]), (1, len(priors), 1))
    points = np.zeros((1, len(priors), 10), np.float32)
    for landmarks, (left, top, right, bottom), score in faces:
        centre = np.array([(left + right) / 2 / width, (top + bottom) / 2 / height])
        size = np.array([(right - left) / width, (bottom - top) / height])
        far = np.hypot(*(priors[:, :2] - centre).T) + np.abs(priors[:, 2] - size[0])
        k = far.argmin()
        # 0.1 and 0.2 are the variances that SSD's detectors are trained with.
        boxes[0, k, :2] = (centre - priors[k, :2]) / priors[k, 2:] / 0.1
        boxes[0, k, 2:] = np.log(size / priors[k, 2:]) / 0.2
        shares = landmarks / (width, height)
        points[0, k] = ((shares - priors[k, :2]) / priors[k, 2:] / 0.1).ravel()
        scores[0, k] = 1 - score, score
    outputs = {"loc": boxes, "conf": scores, "landmarks": points}
    nodes = [helper.make_node("Identity", [f"the_{name}"], [name]) for name in outputs]
    side = [height, width] if fixed else ["height", "width"]
    save(
        path,
        nodes,
        ("input", TensorProto.FLOAT, [1, 3, *side]),
        [(name, TensorProto.FLOAT, list(value.shape)) for name, value in outputs.items()],
        [(f"the_{name}", value) for name, value in outputs.items()],
    )


def save_parsing(path, classes):
    """BiSeNet's shape: `1 x 3 x 512 x 512` in, a score for each of 19 classes out."""
    scores = np.zeros((1, 19, 512, 512), np.float32)
    np.put_along_axis(scores, classes[None, None], 1, axis=1)
    save(
        path,
        [helper.make_node("Identity", ["the_output"], ["output"])],
        ("input", TensorProto.FLOAT, [1, 3, 512, 512]),
        [("output", TensorProto.FLOAT, [1, 19, 512, 512])],
        [("the_output", scores)],
    )
