"""How large a data set of the hub is, and whether it is in the cache already."""

from dataclasses import dataclass
from pathlib import Path

from moe_ray.config.schema import DataConfig
from moe_ray.domains.sources import hub_failures

# What the `datasets` library writes beside the files that it fetches: the same records as Arrow tables.
CACHE_FACTOR = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class HubDataSize:
    """Bytes of the files that are fetched for a data set (all splits of its subset), and the folder of its cache."""

    num_bytes: int
    folder: Path
    is_there: bool

    @property
    def num_bytes_missing(self) -> int:
        """What a download will take on the disk."""
        return 0 if self.is_there else CACHE_FACTOR * self.num_bytes


def measure(data: DataConfig) -> HubDataSize:
    """Ask the hub for the files of a data set. Raises `DataError` where it does not give them to this account."""
    import datasets
    from huggingface_hub import HfApi

    with hub_failures(data):
        builder = datasets.load_dataset_builder(data.source, data.subset, revision=data.revision)
        wanted = {str(file) for files in (builder.config.data_files or {}).values() for file in files}
        info = HfApi().dataset_info(data.source, revision=data.revision, files_metadata=True)
    sizes = {sibling.rfilename: sibling.size or 0 for sibling in info.siblings or ()}
    names = {address.partition("@")[2].partition("/")[2] for address in wanted}
    return HubDataSize(
        num_bytes=sum(num_bytes for name, num_bytes in sizes.items() if name in names),
        folder=Path(datasets.config.HF_DATASETS_CACHE),
        is_there=Path(builder.cache_dir).is_dir(),
    )
