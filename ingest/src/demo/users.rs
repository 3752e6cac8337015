//! People after the randomuser.me schema, version 1.4: the fields of its documentation, seeded.
use chrono::{DateTime, Datelike, Duration, SecondsFormat, Utc};
use rand::{Rng, SeedableRng, seq::IndexedRandom};
use rand_chacha::ChaCha8Rng;
use serde_json::{Value, json};
use uuid::Builder;

use super::names::{NATIONS, Nation};

/// 2026-01-01, so that ages do not depend on the day.
const TODAY_S: i64 = 1_767_225_600;

#[derive(Debug)]
pub struct Users {
    rng: ChaCha8Rng,
}

impl Users {
    pub fn new(seed: u64) -> Self {
        Self { rng: ChaCha8Rng::seed_from_u64(seed) }
    }

    /// The people of a seed given as text.
    pub fn named(seed: &str) -> Self {
        let number =
            seed.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
        Self::new(number)
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        *from.choose(&mut self.rng).expect("lists of names are not empty")
    }

    /// The next person.
    pub fn person(&mut self) -> Value {
        let nation: &Nation = NATIONS.choose(&mut self.rng).expect("there are nations");
        let woman = self.rng.random_bool(0.5);
        let first = self.pick(if woman { nation.women } else { nation.men });
        let last = self.pick(nation.families);
        let (city, state, latitude, longitude) = self.pick(nation.cities);
        let street = self.pick(nation.streets);
        let uuid = Builder::from_random_bytes(self.rng.random()).into_uuid();
        let number = self.rng.random_range(1..9_999);
        let username = format!(
            "{}{}{number}",
            self.pick(&["silver", "blue", "happy", "tiny", "crazy"]),
            self.pick(&["cat", "swan", "bear", "panda"])
        );
        let portrait = self.rng.random_range(0..100);
        let side = if woman { "women" } else { "men" };
        let picture = |folder: &str| format!("https://randomuser.me/api/portraits/{folder}{side}/{portrait}.jpg");
        // Britons and Canadians have letters in their postcodes: some are text, some are numbers, as in the real API.
        let postcode =
            if nation.code == "GB" { json!(format!("LS{} {}XY", number % 29, number % 9)) } else { json!(10_000 + number) };
        let (born, age) = self.moment(18, 80);
        let (registered, since) = self.moment(1, 20);
        json!({
            "gender": if woman { "female" } else { "male" },
            "name": { "title": if woman { "Ms" } else { "Mr" }, "first": first, "last": last },
            "location": {
                "street": { "number": number, "name": street },
                "city": city,
                "state": state,
                "country": nation.country,
                "postcode": postcode,
                "coordinates": { "latitude": self.near(latitude), "longitude": self.near(longitude) },
                "timezone": { "offset": "+0:00", "description": "Western Europe Time, London, Lisbon, Casablanca" },
            },
            "email": format!("{username}@example.com"),
            "login": { "uuid": uuid.to_string(), "username": username },
            "dob": { "date": born, "age": age },
            "registered": { "date": registered, "age": since },
            "phone": format!("{:03}-{:03}-{:04}", self.rng.random_range(1..999), number % 1_000, number),
            "cell": format!("{:04}-{:03}-{:03}", number, number % 1_000, portrait),
            "id": { "name": "", "value": null },
            "picture": { "large": picture(""), "medium": picture("med/"), "thumbnail": picture("thumb/") },
            "nat": nation.code,
        })
    }

    /// A moment so many years ago, and the years.
    fn moment(&mut self, least: i64, most: i64) -> (String, i32) {
        let today = DateTime::<Utc>::from_timestamp(TODAY_S, 0).expect("a valid time");
        let seconds = self.rng.random_range(least * 31_556_952..most * 31_556_952);
        let then = today - Duration::seconds(seconds) + Duration::milliseconds(self.rng.random_range(0..1_000));
        let age = today.year() - then.year() - i32::from(then.ordinal() > today.ordinal());
        (then.to_rfc3339_opts(SecondsFormat::Millis, true), age)
    }

    /// A coordinate near a city's, as text with four digits, as the real API answers.
    fn near(&mut self, degrees: f64) -> String {
        format!("{:.4}", degrees + self.rng.random_range(-0.1..0.1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn people_are_seeded_distinct_and_of_many_scripts() {
        let people: Vec<Value> = std::iter::repeat_with({
            let mut users = Users::new(7);
            move || users.person()
        })
        .take(200)
        .collect();
        assert_eq!(people[0], Users::new(7).person());
        let ids: std::collections::BTreeSet<_> = people.iter().map(|p| p["login"]["uuid"].as_str().expect("uuid")).collect();
        assert_eq!(ids.len(), 200);
        let names: String = people.iter().map(|p| p["name"]["first"].as_str().expect("name")).collect();
        assert!(names.contains('م') && names.contains('پ') && names.contains('é'));
        assert!(people.iter().all(|p| (18..=80).contains(&p["dob"]["age"].as_i64().expect("age"))));
    }
}
