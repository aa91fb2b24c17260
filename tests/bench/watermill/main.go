// A measure of Watermill: one publisher, one subscriber, messages made beforehand.
//
//	gochannel: the subscriber's goroutine acks what comes out of the channel
//	router:    a Router calls a handler that returns nil, and acks
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
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/ThreeDotsLabs/watermill/pubsub/gochannel"
)

const topic = "bench"

func main() {
	kind := flag.String("kind", "gochannel", "gochannel or router")
	messages := flag.Int("messages", 100000, "messages that count")
	payload := flag.Int("payload", 256, "bytes of each payload")
	buffer := flag.Int64("buffer", 1024, "OutputChannelBuffer")
	flag.Parse()

	measure := throughGoChannel
	if *kind == "router" {
		measure = throughRouter
	}
	measure(*messages/10+1, *payload, *buffer) // warm-up
	took := measure(*messages, *payload, *buffer)

	must(json.NewEncoder(os.Stdout).Encode(map[string]any{
		"kind":       *kind,
		"messages":   *messages,
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

func throughRouter(count, payload int, buffer int64) time.Duration {
	messages := made(count, payload)
	pubsub := gochannel.NewGoChannel(gochannel.Config{OutputChannelBuffer: buffer}, watermill.NopLogger{})
	router, err := message.NewRouter(message.RouterConfig{}, watermill.NopLogger{})
	must(err)
	var handled atomic.Int64
	done := make(chan struct{})
	router.AddConsumerHandler("bench", topic, pubsub, func(*message.Message) error {
		if handled.Add(1) == int64(count) {
			close(done)
		}
		return nil
	})
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
