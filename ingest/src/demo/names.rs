//! Names and places by nationality: Latin with and without accents, Arabic and Persian script.

/// What people of one nationality are called, and where they live.
#[derive(Debug)]
pub struct Nation {
    pub code: &'static str,
    pub country: &'static str,
    pub women: &'static [&'static str],
    pub men: &'static [&'static str],
    pub families: &'static [&'static str],
    pub cities: &'static [(&'static str, &'static str, f64, f64)],
    pub streets: &'static [&'static str],
}

pub const NATIONS: &[Nation] = &[
    Nation {
        code: "EG",
        country: "Egypt",
        women: &["فاطمة", "مريم", "نور", "ليلى", "سلمى", "ياسمين"],
        men: &["محمد", "أحمد", "يوسف", "عمر", "خالد", "مصطفى"],
        families: &["عبد الله", "حسن", "إبراهيم", "السيد", "منصور", "الشريف"],
        cities: &[("القاهرة", "القاهرة", 30.0444, 31.2357), ("الإسكندرية", "الإسكندرية", 31.2001, 29.9187)],
        streets: &["شارع النيل", "شارع التحرير", "طريق الحرية"],
    },
    Nation {
        code: "IR",
        country: "Iran",
        women: &["زهرا", "پریسا", "شیرین", "نگار", "آیدا", "مهسا"],
        men: &["علی", "رضا", "کیان", "آرش", "پارسا", "محمدطاها"],
        families: &["رضایی", "کریمی", "موسوی", "یاسمی", "حیدری", "گلشن"],
        cities: &[("تهران", "تهران", 35.6892, 51.389), ("اصفهان", "اصفهان", 32.6546, 51.668), ("شیراز", "فارس", 29.5918, 52.5837)],
        streets: &["خیابان ولیعصر", "خیابان حافظ", "میدان آزادی"],
    },
    Nation {
        code: "FR",
        country: "France",
        women: &["Zoé", "Chloé", "Anaïs", "Éloïse", "Maëlle", "Inès"],
        men: &["Loïc", "Noël", "Théo", "Rémi", "Gaël", "François"],
        families: &["Lefèvre", "Garçon", "Benoît", "Dubois", "Hénault", "Mérieux"],
        cities: &[("Orléans", "Loiret", 47.9029, 1.9093), ("Besançon", "Doubs", 47.2378, 6.0241)],
        streets: &["Rue de l'Abbaye", "Place des Célestins", "Avenue Félix-Faure"],
    },
    Nation {
        code: "DE",
        country: "Germany",
        women: &["Käthe", "Jördis", "Lena", "Änne", "Greta", "Heike"],
        men: &["Jürgen", "Björn", "Götz", "Lukas", "Sören", "Jörg"],
        families: &["Müller", "Größner", "Weiß", "Schäfer", "Köhler", "Strauß"],
        cities: &[("Münster", "Nordrhein-Westfalen", 51.9607, 7.6261), ("Köln", "Nordrhein-Westfalen", 50.9375, 6.9603)],
        streets: &["Bahnhofstraße", "Gänsemarkt", "Große Gasse"],
    },
    Nation {
        code: "TR",
        country: "Turkey",
        women: &["Ayşe", "Çiğdem", "Gülşah", "İpek", "Şebnem", "Özlem"],
        men: &["Çağan", "İsmail", "Oğuz", "Ümit", "Şükrü", "Doğan"],
        families: &["Yılmaz", "Çelik", "Öztürk", "Şahin", "Güneş", "Koçak"],
        cities: &[("İstanbul", "İstanbul", 41.0082, 28.9784), ("Eskişehir", "Eskişehir", 39.7667, 30.5256)],
        streets: &["Atatürk Caddesi", "Bağdat Caddesi", "İnönü Sokak"],
    },
    Nation {
        code: "ES",
        country: "Spain",
        women: &["Begoña", "Inés", "Lucía", "María", "Concepción", "Núria"],
        men: &["Íñigo", "José", "Andrés", "Joaquín", "Adrián", "Iván"],
        families: &["Muñoz", "Ibáñez", "Peña", "Núñez", "Gutiérrez", "Cortés"],
        cities: &[("A Coruña", "Galicia", 43.3623, -8.4115), ("Cádiz", "Andalucía", 36.5271, -6.2886)],
        streets: &["Calle de Alcalá", "Paseo de la Peña", "Avenida de América"],
    },
    Nation {
        code: "GB",
        country: "United Kingdom",
        women: &["Olivia", "Amelia", "Siân", "Freya", "Poppy", "Chloë"],
        men: &["Oliver", "Harry", "Siôn", "Alfie", "Callum", "Rhys"],
        families: &["Smith", "O'Brien", "Llewellyn", "Taylor", "MacLeod", "Brontë"],
        cities: &[("Cardiff", "Glamorgan", 51.4816, -3.1791), ("Leeds", "West Yorkshire", 53.8008, -1.5491)],
        streets: &["High Street", "Station Road", "Mill Lane"],
    },
    Nation {
        code: "US",
        country: "United States",
        women: &["Emma", "Zoë", "Ava", "Renée", "Sofia", "Grace"],
        men: &["Liam", "Noah", "José", "Ethan", "André", "Lucas"],
        families: &["Johnson", "Nguyen", "García", "Williams", "Peña", "Miller"],
        cities: &[("San José", "California", 37.3387, -121.8853), ("Duluth", "Minnesota", 46.7867, -92.1005)],
        streets: &["Elm Street", "Cedar Avenue", "Oak Lane"],
    },
];
