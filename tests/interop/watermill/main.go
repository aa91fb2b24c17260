// A client of Kafka or RabbitMQ made of Watermill, for tests: it writes and reads messages as lines of JSON.
//
//	declare: what a topic needs is declared, for those who publish and for those who receive
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

	"github.com/ThreeDotsLabs/watermill"
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
	topic = flag.String("topic", "", "the topic")
	out   = flag.String("out", "", "the other topic")
	group = flag.String("group", "", "the consumer group")
	nack  = flag.Bool("nack", false, "nack each message the first time")
	limit = flag.Int("limit", -1, "how many messages are acked; the next one is held")
)

// server is what the flags name.
var server interface {
	newPublisher() message.Publisher
	newSubscriber() initializing
	// publishKeyed publishes a message with a key.
	publishKeyed(m *message.Message, key string) error
	// place fills in where a message came from.
	place(m *message.Message, shown *received)
	Close() error
}

type initializing interface {
	message.Subscriber
	message.SubscribeInitializer
}

func main() {
	commands := map[string]func(){
		"declare": declare, "publish": publish, "consume": consume, "answer": answer, "poison": poison,
	}
	if len(os.Args) < 2 || commands[os.Args[1]] == nil {
		panic("declare, publish, consume, answer or poison")
	}
	must(flag.CommandLine.Parse(os.Args[2:]))
	server = &kafkaServer{}
	if *amqpURL != "" {
		server = amqpServer{}
	}
	commands[os.Args[1]]()
	must(server.Close())
}

func must(err error) {
	if err != nil {
		panic(err)
	}
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

func declare() {
	subscriber, publisher := server.newSubscriber(), server.newPublisher()
	must(publisher.Publish(*topic))
	must(subscriber.SubscribeInitialize(*topic))
	must(publisher.Close())
	must(subscriber.Close())
}

func publish() {
	publisher := server.newPublisher()
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
			must(publisher.Publish(*topic, m))
		} else {
			must(server.publishKeyed(m, *one.Key))
		}
	}
	must(lines.Err())
	must(publisher.Close())
}

func show(m *message.Message, did string) {
	shown := received{
		UUID:          m.UUID,
		Metadata:      m.Metadata,
		Payload:       m.Payload,
		Did:           did,
		Name:          cqrs.JSONMarshaler{}.NameFromMessage(m),
		CorrelationID: middleware.MessageCorrelationID(m),
		Poisoned: []string{
			m.Metadata.Get(middleware.ReasonForPoisonedKey),
			m.Metadata.Get(middleware.PoisonedTopicKey),
			m.Metadata.Get(middleware.PoisonedHandlerKey),
			m.Metadata.Get(middleware.PoisonedSubscriberKey),
		},
	}
	server.place(m, &shown)
	must(json.NewEncoder(os.Stdout).Encode(shown))
}

func consume() {
	ctx := untilStdinEnds()
	subscriber := server.newSubscriber()
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
			return server.newSubscriber(), nil
		},
		AckOnUnknownEvent: true,
		Marshaler:         marshaler,
		Logger:            watermill.NopLogger{},
	})
	must(err)
	bus, err := cqrs.NewEventBusWithConfig(server.newPublisher(), cqrs.EventBusConfig{
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
	queue, err := middleware.PoisonQueue(server.newPublisher(), *out)
	must(err)
	router.AddMiddleware(queue)
	router.AddConsumerHandler("fails", *topic, server.newSubscriber(), func(m *message.Message) error {
		return errors.New(fmt.Sprint("no room for ", string(m.Payload)))
	})
	run(router)
}
