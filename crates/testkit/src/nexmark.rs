//! Nexmark's events as the records of one topic: the JSON that Flink's Nexmark writes, an event's type beside the three kinds of it, two of them null. The
//! same events in every run.
use chrono::DateTime;
use nexmark::{EventGenerator, config::NexmarkConfig, event::Event};
use serde_json::{Value, json};

/// The first event's time.
const BEGIN_MS: u64 = 1_700_000_000_000;

/// As many as Flink's generator makes.
const EVENTS_PER_SECOND: usize = 10_000;

/// The first `count` events, 10 000 a second of event time, in its order.
pub fn records(count: usize) -> impl Iterator<Item = String> {
    records_at(count, EVENTS_PER_SECOND)
}

/// The first `count` events, `per_second` (not 0) in a second of event time.
pub fn records_at(count: usize, per_second: usize) -> impl Iterator<Item = String> {
    let config = NexmarkConfig { base_time: BEGIN_MS, first_rate: per_second, next_rate: per_second, ..NexmarkConfig::default() };
    EventGenerator::new(config).take(count).map(|event| record(&event))
}

fn record(event: &Event) -> String {
    let (event_type, name, value) = match event {
        Event::Person(person) => {
            let value = json!({
                "id": person.id,
                "name": person.name,
                "emailAddress": person.email_address,
                "creditCard": person.credit_card,
                "city": person.city,
                // Flink's generator writes states in capitals, as the queries read them.
                "state": person.state.to_uppercase(),
                "dateTime": time(person.date_time),
                "extra": person.extra,
            });
            (0, "person", value)
        }
        Event::Auction(auction) => {
            let value = json!({
                "id": auction.id,
                "itemName": auction.item_name,
                "description": auction.description,
                "initialBid": auction.initial_bid,
                "reserve": auction.reserve,
                "dateTime": time(auction.date_time),
                "expires": time(auction.expires),
                "seller": auction.seller,
                "category": auction.category,
                "extra": auction.extra,
            });
            (1, "auction", value)
        }
        Event::Bid(bid) => {
            let value = json!({
                "auction": bid.auction,
                "bidder": bid.bidder,
                "price": bid.price,
                "channel": bid.channel,
                "url": bid.url,
                "dateTime": time(bid.date_time),
                "extra": bid.extra,
            });
            (2, "bid", value)
        }
    };
    let mut record = json!({ "event_type": event_type, "person": Value::Null, "auction": Value::Null, "bid": Value::Null });
    record[name] = value;
    record.to_string()
}

/// As SQL writes it, which Flink's JSON format and ours read.
fn time(milliseconds: u64) -> String {
    let time = DateTime::from_timestamp_millis(milliseconds as i64).unwrap_or_default();
    time.format("%Y-%m-%d %H:%M:%S%.3f").to_string()
}

#[cfg(test)]
mod tests {
    #[test]
    fn events_are_the_same_in_every_run_and_of_all_kinds() {
        let events: Vec<String> = super::records(50).collect();
        assert_eq!(events, super::records(50).collect::<Vec<_>>());
        assert!(events[0].contains(r#""event_type":0"#) && events[0].contains("2023-11-14 22:13:20.000"), "{}", events[0]);
        assert_eq!(events.iter().filter(|event| event.contains(r#""event_type":1"#)).count(), 3);
        assert_eq!(events.iter().filter(|event| event.contains(r#""event_type":2"#)).count(), 46);
    }

    #[test]
    fn events_are_as_far_apart_as_asked() {
        let newest = super::records_at(50, 2).last().unwrap();
        assert!(newest.contains("2023-11-14 22:13:44.500"), "{newest}");
    }
}
