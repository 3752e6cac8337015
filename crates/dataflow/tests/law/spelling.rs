//! What jobs say in words of our own, and plain DataFusion otherwise: a text of the grammar holds both, until it is read in one of the two ways.

const BEGIN: char = '⟦';
const OR: char = '¦';
const END: char = '⟧';

/// A part of a text that jobs spell as `ours`, and DataFusion as `plain`. Either may have such parts itself.
pub fn either(ours: &str, plain: &str) -> String {
    format!("{BEGIN}{ours}{OR}{plain}{END}")
}

/// As a job says it.
pub fn ours(text: &str) -> String {
    read(text, true)
}

/// As plain DataFusion takes it.
pub fn plain(text: &str) -> String {
    read(text, false)
}

fn read(text: &str, is_ours: bool) -> String {
    let mut read = String::new();
    // Of each part that has begun, whether what comes is wanted.
    let mut wanted = Vec::new();
    for letter in text.chars() {
        match letter {
            BEGIN => wanted.push(is_ours),
            OR => {
                if let Some(last) = wanted.last_mut() {
                    *last = !*last;
                }
            }
            END => {
                wanted.pop();
            }
            _ if wanted.iter().all(|wanted| *wanted) => read.push(letter),
            _ => {}
        }
    }
    read
}

#[test]
fn a_text_is_read_in_two_ways() {
    let inner = either("mode()", "longest_run(x)");
    let text = format!("SELECT {} FROM t", either(&format!("our {inner}"), &format!("plain({inner}, {inner})")));
    assert_eq!(ours(&text), "SELECT our mode() FROM t");
    assert_eq!(plain(&text), "SELECT plain(longest_run(x), longest_run(x)) FROM t");
}
