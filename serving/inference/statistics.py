"""The protocol's statistics extension."""

from serving.inference.schemas import Duration, InferStatistics, ModelStatistics
from serving.metrics.inference import VersionStatistics


def extension(statistics: VersionStatistics, model: str, version: str) -> ModelStatistics:
    """The statistics of one version, as the protocol's extension has them."""
    statistics.count()
    nanoseconds = [int(part.sum) for part in statistics.parts]
    queue, parse, compute, answer = (Duration(statistics.requests, each) for each in nanoseconds)
    return ModelStatistics(
        name=model,
        version=version,
        last_inference=statistics.last_ms,
        inference_count=statistics.rows,
        execution_count=statistics.requests,
        inference_stats=InferStatistics(
            success=Duration(statistics.requests, sum(nanoseconds)),
            fail=Duration(statistics.failed, statistics.failed_ns),
            queue=queue,
            compute_input=parse,
            compute_infer=compute,
            compute_output=answer,
        ),
    )
