// A measure of Watermill: one publisher, one subscriber, messages made beforehand.
//
//	gochannel: the subscriber's goroutine acks what comes out of the channel
//	router:    a Router calls a handler that returns nil, and acks
//	typed:     an EventProcessor on a Router decodes, calls a handler of events, and acks
package main

import (
	"context"
	"encoding/json"
	"flag"
	"os"
	"runtime"
	"sync/atomic"
	"time"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill/components/cqrs"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/ThreeDotsLabs/watermill/pubsub/gochannel"
)

const topic = "bench"

func main() {
	kind := flag.String("kind", "gochannel", "gochannel, router or typed")
	messages := flag.Int("messages", 100000, "messages that count")
	payload := flag.Int("payload", 256, "bytes of each payload")
	buffer := flag.Int64("buffer", 1024, "OutputChannelBuffer")
	flag.Parse()

	measure, found := map[string]func(int, int, int64) time.Duration{
		"gochannel": throughGoChannel,
		"router":    throughRouter,
		"typed":     throughProcessor,
	}[*kind]
	if !found {
		panic("no such kind: " + *kind)
	}
	size := *payload
	if *kind == "typed" {
		size = len(body(*messages - 1).Payload)
	}
	measure(*messages/10+1, *payload, *buffer) // warm-up
	took := measure(*messages, *payload, *buffer)

	must(json.NewEncoder(os.Stdout).Encode(map[string]any{
		"kind":       *kind,
		"messages":   *messages,
		"payload":    size,
		"seconds":    took.Seconds(),
		"go":         runtime.Version(),
		"gomaxprocs": runtime.GOMAXPROCS(0),
	}))
}

func must(err error) {
	if err != nil {
		panic(err)
	}
}

func made(count, payload int) []*message.Message {
	messages := make([]*message.Message, count)
	for i := range messages {
		messages[i] = message.NewMessage(watermill.NewUUID(), make([]byte, payload))
	}
	return messages
}

func throughGoChannel(count, payload int, buffer int64) time.Duration {
	messages := made(count, payload)
	pubsub := gochannel.NewGoChannel(gochannel.Config{OutputChannelBuffer: buffer}, watermill.NopLogger{})
	received, err := pubsub.Subscribe(context.Background(), topic)
	must(err)
	done := make(chan struct{})
	go func() {
		for range count {
			(<-received).Ack()
		}
		close(done)
	}()
	began := time.Now()
	for _, m := range messages {
		must(pubsub.Publish(topic, m))
	}
	<-done
	took := time.Since(began)
	must(pubsub.Close())
	return took
}

// counted returns what a handler calls each time, and what is closed by the last of so many calls.
func counted(count int) (func() error, chan struct{}) {
	var handled atomic.Int64
	done := make(chan struct{})
	return func() error {
		if handled.Add(1) == int64(count) {
			close(done)
		}
		return nil
	}, done
}

func newRouter(buffer int64) (*message.Router, *gochannel.GoChannel) {
	pubsub := gochannel.NewGoChannel(gochannel.Config{OutputChannelBuffer: buffer}, watermill.NopLogger{})
	router, err := message.NewRouter(message.RouterConfig{}, watermill.NopLogger{})
	must(err)
	return router, pubsub
}

func timed(router *message.Router, pubsub *gochannel.GoChannel, messages []*message.Message, done chan struct{}) time.Duration {
	ended := make(chan error)
	go func() { ended <- router.Run(context.Background()) }()
	<-router.Running()
	began := time.Now()
	for _, m := range messages {
		must(pubsub.Publish(topic, m))
	}
	<-done
	took := time.Since(began)
	must(router.Close())
	must(<-ended)
	return took
}

func throughRouter(count, payload int, buffer int64) time.Duration {
	router, pubsub := newRouter(buffer)
	handled, done := counted(count)
	router.AddConsumerHandler("bench", topic, pubsub, func(*message.Message) error { return handled() })
	return timed(router, pubsub, made(count, payload), done)
}

type ping struct {
	OrderID     string `json:"order_id"`
	AmountCents int    `json:"amount_cents"`
}

var marshaler = cqrs.JSONMarshaler{GenerateName: cqrs.StructName}

func body(number int) *message.Message {
	made, err := marshaler.Marshal(ping{OrderID: "A-1", AmountCents: number})
	must(err)
	return made
}

// throughProcessor has bodies of its own size: those of a small event.
func throughProcessor(count, _ int, buffer int64) time.Duration {
	router, pubsub := newRouter(buffer)
	handled, done := counted(count)
	processor, err := cqrs.NewEventProcessorWithConfig(router, cqrs.EventProcessorConfig{
		GenerateSubscribeTopic: func(cqrs.EventProcessorGenerateSubscribeTopicParams) (string, error) {
			return topic, nil
		},
		SubscriberConstructor: func(cqrs.EventProcessorSubscriberConstructorParams) (message.Subscriber, error) {
			return pubsub, nil
		},
		Marshaler: marshaler,
		Logger:    watermill.NopLogger{},
	})
	must(err)
	must(processor.AddHandlers(
		cqrs.NewEventHandler("bench", func(context.Context, *ping) error { return handled() }),
	))
	messages := make([]*message.Message, count)
	for i := range messages {
		messages[i] = body(i)
	}
	return timed(router, pubsub, messages, done)
}
