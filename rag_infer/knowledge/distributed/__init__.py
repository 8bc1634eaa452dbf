"""Filling a knowledge base with vectors that a Ray cluster computes.

The knowledge base stays where it is and has one writer, this process. What is spread is the encoding: the batches are
those of a build on one machine, each is encoded whole by one worker with as many threads, and they are committed in
order, so that the vectors are the same byte for byte. (On processors of another kind the last bits may differ, as
between two machines without Ray.)

From here outwards: `encoder` commits what comes back, `process` starts a process that alone knows Ray, `messages` is
what the two say to each other, `driver` is that process, `cluster` connects it, `stream` lays the batches out and reads
the results, `worker` runs on the cluster's machines.
"""

from rag_infer.knowledge.distributed.encoder import RayEncoder, encoding_on_ray

__all__ = ["RayEncoder", "encoding_on_ray"]
