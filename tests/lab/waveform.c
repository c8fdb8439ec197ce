#include "waveform.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const long double TWO_PI = 6.283185307179586476925286766559005768L;

uint64_t lab_hash(uint64_t seed, int64_t index)
{
    uint64_t z = seed + ((uint64_t)index + 1u) * 0x9E3779B97F4A7C15ull;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ull;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBull;
    return z ^ (z >> 31);
}

static int64_t floor_div(int64_t n, int64_t d)
{
    int64_t q = n / d;
    return (n % d != 0 && (n < 0) != (d < 0)) ? q - 1 : q;
}

/* A cursor over the numbers of a config line; `bad` latches the first malformed or missing one. Doubles are
 * read as doubles, so that C and Python start from bit-identical parameters. */
typedef struct {
    const char *p;
    int bad;
} cursor_t;

static double take_double(cursor_t *c)
{
    char *end;
    double x = strtod(c->p, &end);
    if (end == c->p) c->bad = 1;
    c->p = end;
    return x;
}

static int64_t take_int(cursor_t *c)
{
    char *end;
    long long x = strtoll(c->p, &end, 10);
    if (end == c->p) c->bad = 1;
    c->p = end;
    return x;
}

static int allocate(wave_t *w)
{
    if (w->count < 1 || w->count > (1 << 22)) return -1;
    w->times = calloc((size_t)w->count, sizeof *w->times);
    w->watts = calloc((size_t)w->count, sizeof *w->watts);
    w->prefix = calloc((size_t)w->count + 1, sizeof *w->prefix);
    return w->times && w->watts && w->prefix ? 0 : -1;
}

static int parse_points(wave_t *w, cursor_t *c)
{
    w->count = take_int(c);
    if (c->bad || allocate(w)) return -1;
    for (int64_t i = 0; i < w->count; i++) {
        w->times[i] = take_int(c);
        w->watts[i] = take_double(c);
        if (c->bad || (i && w->times[i] <= w->times[i - 1])) return -1;
    }
    for (int64_t i = 1; i < w->count; i++) {
        long double dt = (long double)(w->times[i] - w->times[i - 1]);
        long double mean = w->kind == WAVE_STEPS ? (long double)w->watts[i - 1]
                                                 : ((long double)w->watts[i - 1] + w->watts[i]) / 2;
        w->prefix[i] = w->prefix[i - 1] + mean * dt;
    }
    return 0;
}

static int parse_noise(wave_t *w, cursor_t *c)
{
    w->a = take_double(c); /* low */
    w->b = take_double(c); /* high */
    w->t = take_int(c);    /* segment length */
    w->count = take_int(c);
    uint64_t seed = (uint64_t)take_int(c);
    if (c->bad || w->t < 1 || allocate(w)) return -1;
    for (int64_t i = 0; i < w->count; i++) {
        double unit = (double)(lab_hash(seed, i) >> 11) * 0x1p-53;
        w->watts[i] = w->a + (w->b - w->a) * unit;
        w->prefix[i + 1] = w->prefix[i] + (long double)w->watts[i] * w->t;
    }
    return 0;
}

int wave_parse(wave_t *w, const char *text)
{
    char kind[16];
    int used = 0;
    memset(w, 0, sizeof *w);
    if (sscanf(text, "%15s%n", kind, &used) != 1) return -1;
    cursor_t c = {text + used, 0};
    if (!strcmp(kind, "const")) {
        w->kind = WAVE_CONST;
        w->a = take_double(&c);
    } else if (!strcmp(kind, "steps")) {
        w->kind = WAVE_STEPS;
        if (parse_points(w, &c)) return -1;
    } else if (!strcmp(kind, "square")) {
        w->kind = WAVE_SQUARE;
        w->a = take_double(&c); /* low */
        w->b = take_double(&c); /* high */
        w->t = take_int(&c);    /* period */
        w->u = take_int(&c);    /* time spent high in each period */
        w->v = take_int(&c);    /* start of a high part */
        if (w->t < 1 || w->u < 0 || w->u > w->t) return -1;
    } else if (!strcmp(kind, "ramp")) {
        w->kind = WAVE_RAMP;
        w->a = take_double(&c);
        w->b = take_double(&c);
        w->t = take_int(&c);
        w->u = take_int(&c);
        if (w->u <= w->t) return -1;
    } else if (!strcmp(kind, "sine")) {
        w->kind = WAVE_SINE;
        w->a = take_double(&c); /* mean */
        w->b = take_double(&c); /* amplitude */
        w->t = take_int(&c);    /* period */
        w->c = take_double(&c); /* phase at the origin */
        if (w->t < 1) return -1;
    } else if (!strcmp(kind, "noise")) {
        w->kind = WAVE_NOISE;
        if (parse_noise(w, &c)) return -1;
    } else if (!strcmp(kind, "trace")) {
        w->kind = WAVE_TRACE;
        w->t = take_int(&c); /* repeat period, 0 = play once and hold */
        if (w->t < 0 || parse_points(w, &c)) return -1;
        if (w->t && (w->times[0] < 0 || w->times[w->count - 1] > w->t)) return -1;
    } else {
        return -1;
    }
    return c.bad ? -1 : 0;
}

/* Index of the last point at or before tau, -1 if tau is before the first. */
static int64_t find_point(const wave_t *w, int64_t tau)
{
    int64_t lo = -1, hi = w->count;
    while (hi - lo > 1) {
        int64_t mid = lo + (hi - lo) / 2;
        if (w->times[mid] <= tau) lo = mid;
        else hi = mid;
    }
    return lo;
}

static long double points_power(const wave_t *w, int64_t tau)
{
    int64_t i = find_point(w, tau);
    if (i < 0) return w->watts[0];
    if (w->kind == WAVE_STEPS || i == w->count - 1) return w->watts[i];
    long double x = (long double)(tau - w->times[i]) / (long double)(w->times[i + 1] - w->times[i]);
    return w->watts[i] + x * ((long double)w->watts[i + 1] - w->watts[i]);
}

static long double points_energy(const wave_t *w, int64_t tau)
{
    int64_t i = find_point(w, tau);
    if (i < 0) return (long double)w->watts[0] * (long double)(tau - w->times[0]);
    long double mean = ((long double)w->watts[i] + points_power(w, tau)) / 2;
    return w->prefix[i] + mean * (long double)(tau - w->times[i]);
}

long double wave_power_w(const wave_t *w, int64_t tau)
{
    switch (w->kind) {
    case WAVE_CONST:
        return w->a;
    case WAVE_SQUARE: {
        int64_t u = tau - w->v;
        return u - floor_div(u, w->t) * w->t < w->u ? w->b : w->a;
    }
    case WAVE_RAMP: {
        if (tau <= w->t) return w->a;
        if (tau >= w->u) return w->b;
        return w->a + ((long double)w->b - w->a) * (long double)(tau - w->t) / (long double)(w->u - w->t);
    }
    case WAVE_SINE: {
        int64_t r = tau - floor_div(tau, w->t) * w->t;
        return w->a + w->b * sinl(TWO_PI * (long double)r / (long double)w->t + w->c);
    }
    case WAVE_NOISE: {
        int64_t i = floor_div(tau, w->t);
        return w->watts[i - floor_div(i, w->count) * w->count];
    }
    case WAVE_TRACE:
        if (w->t) tau -= floor_div(tau, w->t) * w->t;
        return points_power(w, tau);
    case WAVE_STEPS:
        return points_power(w, tau);
    }
    return 0;
}

long double wave_energy_uj(const wave_t *w, int64_t tau)
{
    switch (w->kind) {
    case WAVE_CONST:
        return (long double)w->a * (long double)tau;
    case WAVE_SQUARE: {
        int64_t u = tau - w->v, n = floor_div(u, w->t), r = u - n * w->t;
        int64_t high = n * w->u + (r < w->u ? r : w->u);
        return (long double)w->a * (long double)u + ((long double)w->b - w->a) * (long double)high;
    }
    case WAVE_RAMP: {
        long double len = (long double)(w->u - w->t), x = (long double)(tau - w->t);
        if (x <= 0) return w->a * x;
        if (x >= len) return ((long double)w->a + w->b) / 2 * len + w->b * (x - len);
        return w->a * x + ((long double)w->b - w->a) * x * x / (2 * len);
    }
    case WAVE_SINE: {
        int64_t r = tau - floor_div(tau, w->t) * w->t;
        long double period = (long double)w->t;
        return (long double)w->a * (long double)tau
               - w->b * period / TWO_PI * cosl(TWO_PI * (long double)r / period + w->c);
    }
    case WAVE_NOISE: {
        int64_t cycle = w->t * w->count, n = floor_div(tau, cycle), r = tau - n * cycle, i = r / w->t;
        return (long double)n * w->prefix[w->count] + w->prefix[i] + (long double)w->watts[i] * (long double)(r - i * w->t);
    }
    case WAVE_TRACE: {
        if (!w->t) return points_energy(w, tau);
        int64_t n = floor_div(tau, w->t);
        long double origin = points_energy(w, 0), cycle = points_energy(w, w->t) - origin;
        return (long double)n * cycle + points_energy(w, tau - n * w->t) - origin;
    }
    case WAVE_STEPS:
        return points_energy(w, tau);
    }
    return 0;
}
