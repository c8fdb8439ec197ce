/* Power waveforms of the lab: a value in watts and an exact antiderivative, both of whole microseconds.
 *
 * Times are microseconds since the lab's origin (t0_us of the config) and may be negative. Power is right
 * continuous. Watt times microsecond is microjoule, so the antiderivative is in microjoules.
 */
#ifndef LAB_WAVEFORM_H
#define LAB_WAVEFORM_H

#include <stdint.h>

typedef enum {
    WAVE_CONST,
    WAVE_STEPS,
    WAVE_SQUARE,
    WAVE_RAMP,
    WAVE_SINE,
    WAVE_NOISE,
    WAVE_TRACE
} wave_kind_t;

typedef struct {
    wave_kind_t kind;
    double a, b, c;       /* watts (and the phase of a sine in radians); meaning depends on kind */
    int64_t t, u, v;      /* microseconds */
    int64_t count;        /* points of a step list or trace, segments of a noise cycle */
    int64_t *times;       /* [count] microseconds, ascending */
    double *watts;        /* [count] */
    long double *prefix;  /* [count + 1] microjoules from times[0] (noise: from 0) up to point i */
} wave_t;

/* Uniform pseudo-random 64 bits of (seed, index): the splitmix64 finaliser. Same function in waveforms.py. */
uint64_t lab_hash(uint64_t seed, int64_t index);

/* Parse "const 300", "square 100 500 1300000 650000 0", ... into *w. Returns 0, or -1 on a malformed line. */
int wave_parse(wave_t *w, const char *text);

long double wave_power_w(const wave_t *w, int64_t tau_us);
long double wave_energy_uj(const wave_t *w, int64_t tau_us);

#endif
