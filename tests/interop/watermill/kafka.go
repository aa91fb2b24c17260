package main

import (
	"context"
	"flag"
	"os"
	"strings"
	"time"

	"github.com/IBM/sarama"
	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill-kafka/v3/pkg/kafka"
	"github.com/ThreeDotsLabs/watermill/message"
)

var brokers = flag.String("brokers", "", "where to find Kafka")

type kafkaServer struct {
	keyed *kafka.Publisher
}

type keyOf struct{}

func publisherWith(marshaler kafka.Marshaler) *kafka.Publisher {
	publisher, err := kafka.NewPublisher(kafka.PublisherConfig{
		Brokers:   strings.Split(*brokers, ","),
		Marshaler: marshaler,
	}, watermill.NopLogger{})
	must(err)
	return publisher
}

func (s *kafkaServer) newPublisher() message.Publisher {
	return publisherWith(kafka.DefaultMarshaler{})
}

func (s *kafkaServer) publishKeyed(m *message.Message, key string) error {
	if s.keyed == nil {
		s.keyed = publisherWith(kafka.NewWithPartitioningMarshaler(
			func(_ string, m *message.Message) (string, error) { return m.Context().Value(keyOf{}).(string), nil },
		))
	}
	m.SetContext(context.WithValue(context.Background(), keyOf{}, key))
	return s.keyed.Publish(*topic, m)
}

// newSubscriber is as Watermill makes it, but for the three settings that are said here.
func (s *kafkaServer) newSubscriber() initializing {
	config := kafka.DefaultSaramaSubscriberConfig()
	config.Consumer.Offsets.Initial = sarama.OffsetOldest                // else a new group misses what is there
	config.Consumer.Group.Heartbeat.Interval = 200 * time.Millisecond    // it hears sooner of a rebalance
	config.Consumer.Offsets.AutoCommit.Interval = 100 * time.Millisecond // and the test sooner of a commit
	subscriber, err := kafka.NewSubscriber(kafka.SubscriberConfig{
		Brokers:               strings.Split(*brokers, ","),
		Unmarshaler:           kafka.DefaultMarshaler{},
		OverwriteSaramaConfig: config,
		ConsumerGroup:         *group,
	}, watermill.NewStdLoggerWithOut(os.Stderr, false, false))
	must(err)
	return subscriber
}

func (s *kafkaServer) place(m *message.Message, shown *received) {
	shown.Partition, _ = kafka.MessagePartitionFromCtx(m.Context())
	shown.Offset, _ = kafka.MessagePartitionOffsetFromCtx(m.Context())
	shown.Key, _ = kafka.MessageKeyFromCtx(m.Context())
}

func (s *kafkaServer) Close() error {
	if s.keyed == nil {
		return nil
	}
	return s.keyed.Close()
}
