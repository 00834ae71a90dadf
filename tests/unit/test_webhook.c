/* test_webhook.c - which addresses may be told, and signatures against Standard Webhooks' own. */
#include "server/webhook.h"

#include "engine/base/hash.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

static bool is_public(const char *text)
{
    struct sockaddr_in v4 = {.sin_family = AF_INET};
    struct sockaddr_in6 v6 = {.sin6_family = AF_INET6};
    if (inet_pton(AF_INET, text, &v4.sin_addr) == 1)
        return scd_webhook_is_public((const struct sockaddr *)&v4);
    assert_int_equal(inet_pton(AF_INET6, text, &v6.sin6_addr), 1);
    return scd_webhook_is_public((const struct sockaddr *)&v6);
}

static void addresses_inside_are_told_apart(void **state)
{
    (void)state;
    static const char *const inside[] = {"0.0.0.0",
                                         "10.1.2.3",
                                         "100.64.0.1",
                                         "100.127.255.255",
                                         "127.0.0.1",
                                         "127.255.255.255",
                                         "169.254.169.254",
                                         "172.16.0.1",
                                         "172.31.255.255",
                                         "192.0.0.1",
                                         "192.168.0.1",
                                         "198.18.0.1",
                                         "198.19.255.1",
                                         "203.0.113.9",
                                         "224.0.0.1",
                                         "255.255.255.255",
                                         "::",
                                         "::1",
                                         "::ffff:10.0.0.1",
                                         "::ffff:127.0.0.1",
                                         "fc00::1",
                                         "fd12::1",
                                         "fe80::1",
                                         "ff02::1",
                                         "2001:db8::1",
                                         "64:ff9b::7f00:1",
                                         "2002:7f00:1::1",
                                         "2002:a00:1::1",
                                         "2001::1",
                                         "100::1"};
    static const char *const outside[] = {
        "1.1.1.1",      "9.255.255.255",   "11.0.0.1",         "100.63.255.255",
        "100.128.0.1",  "126.255.255.255", "128.0.0.1",        "172.15.255.1",
        "172.32.0.1",   "192.167.1.1",     "223.255.255.1",    "2606:4700::1111",
        "2a00:1450::1", "::ffff:1.1.1.1",  "64:ff9b::101:101", "2002:101:101::1"};
    for (size_t i = 0; i < sizeof inside / sizeof inside[0]; i++)
        if (is_public(inside[i]))
            fail_msg("%s would be told", inside[i]);
    for (size_t i = 0; i < sizeof outside / sizeof outside[0]; i++)
        if (!is_public(outside[i]))
            fail_msg("%s would not be told", outside[i]);
    struct sockaddr odd = {.sa_family = AF_UNIX};
    assert_false(scd_webhook_is_public(&odd));
}

/* The example of the specification's reference libraries. */
static void a_signature_is_that_of_the_specification(void **state)
{
    (void)state;
    unsigned char secret[64];
    char signature[64];
    size_t n = scd_webhook_read_secret("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", secret);
    assert_int_equal(n, 24);
    scd_webhook_sign(secret, n, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330,
                     "{\"test\": 2432232314}", signature);
    assert_string_equal(signature, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
}

static void a_secret_that_is_none_is_refused(void **state)
{
    (void)state;
    unsigned char secret[64];
    static const char *const bad[] = {"",
                                      "whsec_",
                                      "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
                                      "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2La",
                                      "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaS",
                                      "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2La aSw",
                                      "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLa=w"};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
        if (scd_webhook_read_secret(bad[i], secret))
            fail_msg("\"%s\" was taken", bad[i]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(addresses_inside_are_told_apart),
        cmocka_unit_test(a_signature_is_that_of_the_specification),
        cmocka_unit_test(a_secret_that_is_none_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
