//! Our protos follow the rules that buf calls STANDARD: <https://buf.build/docs/lint/rules/#standard>.
use std::path::Path;

use prost_types::{DescriptorProto, EnumDescriptorProto, FileDescriptorProto, FileDescriptorSet};

fn is_pascal(name: &str) -> bool {
    name.starts_with(|first: char| first.is_ascii_uppercase()) && name.chars().all(|letter| letter.is_ascii_alphanumeric())
}

fn is_snake(name: &str, letter: impl Fn(char) -> bool) -> bool {
    !name.is_empty()
        && name.split('_').all(|word| !word.is_empty() && word.chars().all(|each| letter(each) || each.is_ascii_digit()))
}

fn snake(pascal: &str) -> String {
    let mut words = String::new();
    for letter in pascal.chars() {
        if letter.is_ascii_uppercase() && !words.is_empty() {
            words.push('_');
        }
        words.push(letter.to_ascii_uppercase());
    }
    words
}

fn enumeration(of: &EnumDescriptorProto, broken: &mut Vec<String>) {
    let name = of.name();
    if !is_pascal(name) {
        broken.push(format!("ENUM_PASCAL_CASE {name}"));
    }
    let prefix = format!("{}_", snake(name));
    for value in &of.value {
        if !is_snake(value.name(), |letter| letter.is_ascii_uppercase()) {
            broken.push(format!("ENUM_VALUE_UPPER_SNAKE_CASE {name}.{}", value.name()));
        }
        if !value.name().starts_with(&prefix) {
            broken.push(format!("ENUM_VALUE_PREFIX {name}.{}", value.name()));
        }
        if value.number() == 0 && !value.name().ends_with("_UNSPECIFIED") {
            broken.push(format!("ENUM_ZERO_VALUE_SUFFIX {name}.{}", value.name()));
        }
    }
    if of.options.as_ref().is_some_and(|options| options.allow_alias()) {
        broken.push(format!("ENUM_NO_ALLOW_ALIAS {name}"));
    }
}

fn message(of: &DescriptorProto, broken: &mut Vec<String>) {
    let name = of.name();
    if of.options.as_ref().is_some_and(|options| options.map_entry()) {
        return;
    }
    if !is_pascal(name) {
        broken.push(format!("MESSAGE_PASCAL_CASE {name}"));
    }
    let fields = of.field.iter().map(|field| ("FIELD_LOWER_SNAKE_CASE", field.name()));
    let oneofs = of
        .oneof_decl
        .iter()
        .map(|oneof| oneof.name())
        .filter(|oneof| !oneof.starts_with('_'))
        .map(|oneof| ("ONEOF_LOWER_SNAKE_CASE", oneof));
    for (rule, field) in fields.chain(oneofs) {
        if !is_snake(field, |letter| letter.is_ascii_lowercase()) {
            broken.push(format!("{rule} {name}.{field}"));
        }
    }
    of.nested_type.iter().for_each(|nested| message(nested, broken));
    of.enum_type.iter().for_each(|nested| enumeration(nested, broken));
}

/// The rules that the file breaks, each with the name that breaks it.
fn broken(file: &FileDescriptorProto) -> Vec<String> {
    let mut broken = Vec::new();
    let package = file.package();
    let version = package.rsplit('.').next().unwrap_or_default();
    if !version.strip_prefix('v').is_some_and(|number| number.starts_with(|first: char| first.is_ascii_digit())) {
        broken.push(format!("PACKAGE_VERSION_SUFFIX {package}"));
    }
    if package.split('.').any(|word| !is_snake(word, |letter| letter.is_ascii_lowercase())) {
        broken.push(format!("PACKAGE_LOWER_SNAKE_CASE {package}"));
    }
    if Path::new(file.name()).parent() != Some(Path::new(&package.replace('.', "/"))) {
        broken.push(format!("PACKAGE_DIRECTORY_MATCH {} {package}", file.name()));
    }
    let stem = Path::new(file.name()).file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
    if !is_snake(stem, |letter| letter.is_ascii_lowercase()) {
        broken.push(format!("FILE_LOWER_SNAKE_CASE {}", file.name()));
    }
    if file.syntax() != "proto3" {
        broken.push(format!("SYNTAX_SPECIFIED {}", file.name()));
    }
    if !file.public_dependency.is_empty() || !file.weak_dependency.is_empty() {
        broken.push(format!("IMPORT_NO_PUBLIC {}", file.name()));
    }
    let mut messages_of_calls = Vec::new();
    for service in &file.service {
        if !is_pascal(service.name()) || !service.name().ends_with("Service") {
            broken.push(format!("SERVICE_SUFFIX {}", service.name()));
        }
        for call in &service.method {
            let (name, owner) = (call.name(), service.name());
            if !is_pascal(name) {
                broken.push(format!("RPC_PASCAL_CASE {owner}.{name}"));
            }
            for (rule, suffix, found) in [
                ("RPC_REQUEST_STANDARD_NAME", "Request", call.input_type()),
                ("RPC_RESPONSE_STANDARD_NAME", "Response", call.output_type()),
            ] {
                let found = found.rsplit('.').next().unwrap_or_default();
                if found != format!("{name}{suffix}") && found != format!("{owner}{name}{suffix}") {
                    broken.push(format!("{rule} {owner}.{name}"));
                }
                if messages_of_calls.contains(&found) {
                    broken.push(format!("RPC_REQUEST_RESPONSE_UNIQUE {owner}.{name}"));
                }
                messages_of_calls.push(found);
            }
        }
    }
    file.message_type.iter().for_each(|each| message(each, &mut broken));
    file.enum_type.iter().for_each(|each| enumeration(each, &mut broken));
    broken
}

fn compiled(root: &Path, files: &[String]) -> FileDescriptorSet {
    protox::compile(files, [root]).expect("the protos compile")
}

fn protos_below(folder: &Path, root: &Path, found: &mut Vec<String>) {
    for entry in std::fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").path()) {
        if entry.is_dir() {
            protos_below(&entry, root, found);
        } else if entry.extension().is_some_and(|extension| extension == "proto") {
            found.push(entry.strip_prefix(root).expect("below the root").to_str().expect("UTF-8").to_owned());
        }
    }
}

#[test]
fn our_protos_break_no_rule() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    protos_below(&root.join("polybolos"), root, &mut files);
    assert!(files.len() >= 2, "{files:?}");
    for file in compiled(root, &files).file.iter().filter(|file| file.package().starts_with("polybolos")) {
        assert_eq!(broken(file), Vec::<String>::new(), "{}", file.name());
    }
}

#[test]
fn a_broken_rule_is_found() {
    let folder = std::env::temp_dir().join(format!("polybolos-protos-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a folder");
    let text = "syntax = \"proto3\";\npackage wrong.place;\n\
        service Speak { rpc Say(Words) returns (Words); }\n\
        message Words { string BadName = 1; oneof Kind { string a = 2; } }\n\
        enum Mood { GOOD = 0; }\n";
    std::fs::write(folder.join("Wrong.proto"), text).expect("a file");
    let set = compiled(&folder, &["Wrong.proto".to_owned()]);
    std::fs::remove_dir_all(&folder).expect("removed");
    let found = broken(&set.file[0]).join("\n");
    for rule in [
        "PACKAGE_VERSION_SUFFIX",
        "PACKAGE_DIRECTORY_MATCH",
        "FILE_LOWER_SNAKE_CASE",
        "SERVICE_SUFFIX",
        "RPC_REQUEST_STANDARD_NAME",
        "RPC_RESPONSE_STANDARD_NAME",
        "RPC_REQUEST_RESPONSE_UNIQUE",
        "FIELD_LOWER_SNAKE_CASE",
        "ONEOF_LOWER_SNAKE_CASE",
        "ENUM_VALUE_PREFIX",
        "ENUM_ZERO_VALUE_SUFFIX",
    ] {
        assert!(found.contains(rule), "{rule} was not found in:\n{found}");
    }
}
