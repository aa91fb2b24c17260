// A client of Kafka made of Watermill, for tests: it writes and reads messages as lines of JSON.
//
//	publish: each line of stdin is published, with a key if it has one
//	consume: each message is a line on stdout, and what was done with it, until stdin ends
//	answer:  typed events through Watermill's CQRS component, from a topic to another one
//	poison:  a router whose handler fails, with Watermill's poison queue behind it
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/IBM/sarama"
	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill-kafka/v3/pkg/kafka"
	"github.com/ThreeDotsLabs/watermill/components/cqrs"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/ThreeDotsLabs/watermill/message/router/middleware"
)

// written is a message on stdin.
type written struct {
	UUID     string            `json:"uuid"`
	Metadata map[string]string `json:"metadata"`
	Payload  []byte            `json:"payload"` // null is published as nil
	Key      *string           `json:"key"`
}

// received is a message on stdout.
type received struct {
	UUID          string            `json:"uuid"`
	Metadata      map[string]string `json:"metadata"`
	Payload       []byte            `json:"payload"`
	Key           []byte            `json:"key"`
	Partition     int32             `json:"partition"`
	Offset        int64             `json:"offset"`
	Did           string            `json:"did"`
	Name          string            `json:"name"`
	CorrelationID string            `json:"correlation_id"`
	Poisoned      []string          `json:"poisoned"`
}

var (
	brokers = flag.String("brokers", "", "where to find Kafka")
	topic   = flag.String("topic", "", "the topic")
	out     = flag.String("out", "", "the other topic")
	group   = flag.String("group", "", "the consumer group")
	nack    = flag.Bool("nack", false, "nack each message the first time")
	limit   = flag.Int("limit", -1, "how many messages are acked; the next one is held")
)

func main() {
	commands := map[string]func(){"publish": publish, "consume": consume, "answer": answer, "poison": poison}
	if len(os.Args) < 2 || commands[os.Args[1]] == nil {
		panic("publish, consume, answer or poison")
	}
	must(flag.CommandLine.Parse(os.Args[2:]))
	commands[os.Args[1]]()
}

func must(err error) {
	if err != nil {
		panic(err)
	}
}

func newPublisher(marshaler kafka.Marshaler) *kafka.Publisher {
	publisher, err := kafka.NewPublisher(kafka.PublisherConfig{
		Brokers:   strings.Split(*brokers, ","),
		Marshaler: marshaler,
	}, watermill.NopLogger{})
	must(err)
	return publisher
}

// newSubscriber is as Watermill makes it, but for the three settings that are said here.
func newSubscriber() *kafka.Subscriber {
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

// untilStdinEnds returns a context that ends with stdin, and so with whoever started the program.
func untilStdinEnds() context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		cancel()
	}()
	return ctx
}

type keyOf struct{}

func publish() {
	plain := newPublisher(kafka.DefaultMarshaler{})
	keyed := newPublisher(kafka.NewWithPartitioningMarshaler(
		func(_ string, m *message.Message) (string, error) { return m.Context().Value(keyOf{}).(string), nil },
	))
	lines := bufio.NewScanner(os.Stdin)
	lines.Buffer(nil, 1<<24)
	for lines.Scan() {
		var one written
		must(json.Unmarshal(lines.Bytes(), &one))
		m := message.NewMessage(one.UUID, one.Payload)
		for name, value := range one.Metadata {
			m.Metadata.Set(name, value)
		}
		if one.Key == nil {
			must(plain.Publish(*topic, m))
			continue
		}
		m.SetContext(context.WithValue(context.Background(), keyOf{}, *one.Key))
		must(keyed.Publish(*topic, m))
	}
	must(lines.Err())
	must(plain.Close())
	must(keyed.Close())
}

func show(m *message.Message, did string) {
	partition, _ := kafka.MessagePartitionFromCtx(m.Context())
	offset, _ := kafka.MessagePartitionOffsetFromCtx(m.Context())
	key, _ := kafka.MessageKeyFromCtx(m.Context())
	must(json.NewEncoder(os.Stdout).Encode(received{
		UUID:          m.UUID,
		Metadata:      m.Metadata,
		Payload:       m.Payload,
		Key:           key,
		Partition:     partition,
		Offset:        offset,
		Did:           did,
		Name:          cqrs.JSONMarshaler{}.NameFromMessage(m),
		CorrelationID: middleware.MessageCorrelationID(m),
		Poisoned: []string{
			m.Metadata.Get(middleware.ReasonForPoisonedKey),
			m.Metadata.Get(middleware.PoisonedTopicKey),
			m.Metadata.Get(middleware.PoisonedHandlerKey),
			m.Metadata.Get(middleware.PoisonedSubscriberKey),
		},
	}))
}

func consume() {
	ctx := untilStdinEnds()
	subscriber := newSubscriber()
	messages, err := subscriber.Subscribe(context.Background(), *topic)
	must(err)
	nacked := map[string]bool{}
	for acked := 0; ; {
		select {
		case <-ctx.Done():
			must(subscriber.Close())
			return
		case m := <-messages:
			switch {
			case acked == *limit:
				show(m, "held")
				messages = nil // no more of them
			case *nack && !nacked[m.UUID]:
				nacked[m.UUID] = true
				show(m, "nacked")
				m.Nack()
			default:
				show(m, "acked")
				m.Ack()
				acked++
			}
		}
	}
}

// Transferred is a typed event, which Python's side declares too.
type Transferred struct {
	Memo   string   `json:"memo"`
	Amount int64    `json:"amount"`
	Least  int64    `json:"least"`
	Parts  []uint64 `json:"parts"`
}

// Booked answers it.
type Booked struct {
	Memo   string   `json:"memo"`
	Amount int64    `json:"amount"`
	Least  int64    `json:"least"`
	Parts  []uint64 `json:"parts"`
}

func newRouter() *message.Router {
	router, err := message.NewRouter(message.RouterConfig{}, watermill.NopLogger{})
	must(err)
	return router
}

func run(router *message.Router) {
	must(router.Run(untilStdinEnds()))
}

func answer() {
	router := newRouter()
	marshaler := cqrs.JSONMarshaler{}
	processor, err := cqrs.NewEventProcessorWithConfig(router, cqrs.EventProcessorConfig{
		GenerateSubscribeTopic: func(cqrs.EventProcessorGenerateSubscribeTopicParams) (string, error) {
			return *topic, nil
		},
		SubscriberConstructor: func(cqrs.EventProcessorSubscriberConstructorParams) (message.Subscriber, error) {
			return newSubscriber(), nil
		},
		AckOnUnknownEvent: true,
		Marshaler:         marshaler,
		Logger:            watermill.NopLogger{},
	})
	must(err)
	bus, err := cqrs.NewEventBusWithConfig(newPublisher(kafka.DefaultMarshaler{}), cqrs.EventBusConfig{
		GeneratePublishTopic: func(cqrs.GenerateEventPublishTopicParams) (string, error) { return *out, nil },
		OnPublish: func(params cqrs.OnEventSendParams) error {
			cause := cqrs.OriginalMessageFromCtx(params.Message.Context())
			middleware.SetCorrelationID(middleware.MessageCorrelationID(cause), params.Message)
			return nil
		},
		Marshaler: marshaler,
		Logger:    watermill.NopLogger{},
	})
	must(err)
	must(processor.AddHandlers(cqrs.NewEventHandler("book", func(ctx context.Context, event *Transferred) error {
		return bus.Publish(ctx, Booked(*event))
	})))
	run(router)
}

func poison() {
	router := newRouter()
	queue, err := middleware.PoisonQueue(newPublisher(kafka.DefaultMarshaler{}), *out)
	must(err)
	router.AddMiddleware(queue)
	router.AddConsumerHandler("fails", *topic, newSubscriber(), func(m *message.Message) error {
		return errors.New(fmt.Sprint("no room for ", string(m.Payload)))
	})
	run(router)
}
