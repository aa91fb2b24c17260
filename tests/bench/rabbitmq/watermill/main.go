// A measure of watermill-amqp, on a RabbitMQ that runs already.
//
//	consume: a Router reads a full durable queue; the handler decodes the JSON into a struct and
//	         returns nil, which acks
//	publish: so many goroutines share one publisher, each with one message in flight, to a durable
//	         fanout exchange
//
// For consume the time runs from the first call of the handler to the last.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill-amqp/v3/pkg/amqp"
	"github.com/ThreeDotsLabs/watermill/message"
)

type order struct {
	OrderID     string `json:"order_id"`
	AmountCents int    `json:"amount_cents"`
	Note        string `json:"note"`
}

func main() {
	kind := flag.String("kind", "consume", "consume or publish")
	address := flag.String("address", "", "amqp://…")
	topic := flag.String("topic", "", "consume: the queue; publish: the fanout exchange")
	messages := flag.Int("messages", 10000, "messages that count")
	prefetch := flag.Int("prefetch", 0, "consume: how many are fetched ahead; 0 for the default")
	inFlight := flag.Int("in-flight", 200, "publish: goroutines")
	confirms := flag.Bool("confirms", false, "publish: with confirms, and a channel for each goroutine")
	body := flag.String("body", "", "publish: the payload")
	name := flag.String("name", "", "publish: the metadata's name")
	flag.Parse()

	var took time.Duration
	if *kind == "publish" {
		config := amqp.NewDurablePubSubConfig(*address, nil)
		if *confirms {
			config.Publish.ConfirmDelivery = true
			config.Publish.ChannelPoolSize = *inFlight
		}
		took = publish(config, *topic, *messages, *inFlight, []byte(*body), *name)
	} else {
		config := amqp.NewDurableQueueConfig(*address)
		if *prefetch > 0 {
			config.Consume.Qos.PrefetchCount = *prefetch
		}
		took = consume(config, *topic, *messages)
	}
	must(json.NewEncoder(os.Stdout).Encode(map[string]any{
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

func consume(config amqp.Config, queue string, count int) time.Duration {
	subscriber, err := amqp.NewSubscriber(config, watermill.NopLogger{})
	must(err)
	router, err := message.NewRouter(message.RouterConfig{}, watermill.NopLogger{})
	must(err)

	var handled atomic.Int64
	var began time.Time
	done := make(chan time.Duration, 1)
	router.AddConsumerHandler("bench", queue, subscriber, func(m *message.Message) error {
		var found order
		if err := json.Unmarshal(m.Payload, &found); err != nil {
			return err
		}
		switch handled.Add(1) {
		case 1:
			began = time.Now()
		case int64(count):
			done <- time.Since(began)
		}
		return nil
	})
	ended := make(chan error)
	go func() { ended <- router.Run(context.Background()) }()
	took := <-done
	must(router.Close())
	must(<-ended)
	return took
}

func publish(config amqp.Config, topic string, count, inFlight int, body []byte, name string) time.Duration {
	publisher, err := amqp.NewPublisher(config, watermill.NopLogger{})
	must(err)
	send := func(messages []*message.Message) {
		var next atomic.Int64
		var publishers sync.WaitGroup
		for range inFlight {
			publishers.Go(func() {
				for at := int(next.Add(1)) - 1; at < len(messages); at = int(next.Add(1)) - 1 {
					must(publisher.Publish(topic, messages[at]))
				}
			})
		}
		publishers.Wait()
	}
	send(made(1, body, name)) // warm-up
	messages := made(count, body, name)
	began := time.Now()
	send(messages)
	took := time.Since(began)
	must(publisher.Close())
	return took
}

func made(count int, body []byte, name string) []*message.Message {
	messages := make([]*message.Message, count)
	for i := range messages {
		messages[i] = message.NewMessage(watermill.NewUUID(), body)
		messages[i].Metadata.Set("name", name)
	}
	return messages
}
