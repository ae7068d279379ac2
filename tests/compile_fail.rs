//! What must not compile: the mistakes that the types of the API exist to prevent.

#[test]
fn misuse_does_not_compile() {
    trybuild::TestCases::new().compile_fail("tests/compile_fail/*.rs");
}
