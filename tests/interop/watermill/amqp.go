package main

import (
	"errors"
	"flag"
	"os"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill-amqp/v3/pkg/amqp"
	"github.com/ThreeDotsLabs/watermill/message"
)

var (
	amqpURL  = flag.String("amqp", "", "where to find RabbitMQ")
	preset   = flag.String("preset", "", "durable-pubsub, durable-queue, durable-topic; or transient-…")
	exchange = flag.String("exchange", "", "the exchange of a topic preset")
)

type amqpServer struct{}

// config is a preset as it is; its queues are named as most do it.
func (amqpServer) config() amqp.Config {
	named := amqp.GenerateQueueNameTopicNameWithSuffix(*group)
	switch *preset {
	case "durable-pubsub":
		return amqp.NewDurablePubSubConfig(*amqpURL, named)
	case "durable-queue":
		return amqp.NewDurableQueueConfig(*amqpURL)
	case "durable-topic":
		return amqp.NewDurableTopicConfig(*amqpURL, *exchange, named(*topic))
	case "transient-pubsub":
		return amqp.NewNonDurablePubSubConfig(*amqpURL, named)
	case "transient-queue":
		return amqp.NewNonDurableQueueConfig(*amqpURL)
	case "transient-topic":
		return amqp.NewNonDurableTopicConfig(*amqpURL, *exchange, named(*topic))
	}
	panic("no such preset: " + *preset)
}

func (s amqpServer) newPublisher() message.Publisher {
	publisher, err := amqp.NewPublisher(s.config(), watermill.NopLogger{})
	must(err)
	return publisher
}

func (s amqpServer) newSubscriber() initializing {
	subscriber, err := amqp.NewSubscriber(s.config(), watermill.NewStdLoggerWithOut(os.Stderr, false, false))
	must(err)
	return subscriber
}

func (amqpServer) publishKeyed(*message.Message, string) error {
	return errors.New("messages in RabbitMQ have no key")
}

func (amqpServer) place(*message.Message, *received) {}

func (amqpServer) Close() error { return nil }
