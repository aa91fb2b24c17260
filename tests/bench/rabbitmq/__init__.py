"""Measures of the RabbitMQ backend, beside raw aio-pika, FastStream and watermill-amqp."""
