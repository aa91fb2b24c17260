// A measure of watermill-kafka, on a broker that runs already.
//
//	consume: a Router reads a full topic as a new group, from the oldest record on; the handler
//	         decodes the JSON into a struct and returns nil, which acks
//	publish: so many goroutines share one publisher, each with one message in flight
//
// For consume the time runs from the first call of the handler to the last.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"os"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/IBM/sarama"
	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill-kafka/v3/pkg/kafka"
	"github.com/ThreeDotsLabs/watermill/message"
)

type order struct {
	OrderID     string `json:"order_id"`
	AmountCents int    `json:"amount_cents"`
	Note        string `json:"note"`
}

func main() {
	kind := flag.String("kind", "consume", "consume or publish")
	hosts := flag.String("hosts", "", "host:port, with commas between")
	topic := flag.String("topic", "", "the topic")
	group := flag.String("group", "", "consume: the group")
	messages := flag.Int("messages", 10000, "messages that count")
	inFlight := flag.Int("in-flight", 1000, "publish: goroutines")
	body := flag.String("body", "", "publish: the payload")
	name := flag.String("name", "", "publish: the metadata's name")
	flag.Parse()

	brokers := strings.Split(*hosts, ",")
	var took time.Duration
	if *kind == "publish" {
		took = publish(brokers, *topic, *messages, *inFlight, []byte(*body), *name)
	} else {
		took = consume(brokers, *topic, *group, *messages)
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

func consume(brokers []string, topic, group string, count int) time.Duration {
	config := kafka.DefaultSaramaSubscriberConfig()
	config.Consumer.Offsets.Initial = sarama.OffsetOldest
	subscriber, err := kafka.NewSubscriber(kafka.SubscriberConfig{
		Brokers:               brokers,
		Unmarshaler:           kafka.DefaultMarshaler{},
		OverwriteSaramaConfig: config,
		ConsumerGroup:         group,
	}, watermill.NopLogger{})
	must(err)
	router, err := message.NewRouter(message.RouterConfig{}, watermill.NopLogger{})
	must(err)

	var handled atomic.Int64
	var began time.Time
	done := make(chan time.Duration, 1)
	router.AddConsumerHandler("bench", topic, subscriber, func(m *message.Message) error {
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

func publish(brokers []string, topic string, count, inFlight int, body []byte, name string) time.Duration {
	config := kafka.DefaultSaramaSyncPublisherConfig()
	config.Producer.RequiredAcks = sarama.WaitForAll
	publisher, err := kafka.NewPublisher(kafka.PublisherConfig{
		Brokers:               brokers,
		Marshaler:             kafka.DefaultMarshaler{},
		OverwriteSaramaConfig: config,
	}, watermill.NopLogger{})
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
	send(made(count/10+1, body, name)) // warm-up
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
