"""Measures of the Kafka backend, beside raw confluent-kafka, FastStream and watermill-kafka."""
