"""The protocol's statistics extension."""

from serving.inference.schemas import Duration, InferStatistics, ModelStatistics
from serving.metrics.inference import VersionStatistics


def extension(statistics: VersionStatistics, model: str, version: str) -> ModelStatistics:
    """The statistics of one version, as the protocol's extension has them."""
    statistics.count()
    queue, parse, compute, answer = (Duration(statistics.requests, ns) for ns in statistics.sums.tolist())
    return ModelStatistics(
        name=model,
        version=version,
        last_inference=statistics.last_ms,
        inference_count=statistics.rows,
        execution_count=statistics.requests,
        inference_stats=InferStatistics(
            success=Duration(statistics.requests, int(statistics.sums.sum())),
            fail=Duration(statistics.failed, statistics.failed_ns),
            queue=queue,
            compute_input=parse,
            compute_infer=compute,
            compute_output=answer,
        ),
    )
