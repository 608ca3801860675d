# dbscale: a PGXS extension. `make`, `make install`, `make installcheck`.
EXTENSION = dbscale
EXTVERSION = $(shell sed -n "s/^default_version = '\(.*\)'/\1/p" dbscale.control)
MODULE_big = dbscale
OBJS = $(sort $(patsubst %.c,%.o,$(wildcard src/*.c src/*/*.c)))
DATA_built = dbscale--$(EXTVERSION).sql
EXTRA_CLEAN = dbscale--*.sql
all_headers = $(wildcard src/*/*.h)

# The floors (docs/architecture.md): includes are written "floor/header.h".
PG_CPPFLAGS = -I$(srcdir)/src -I$(libpq_srcdir) \
	-DPGDLLEXPORT='__attribute__((visibility("default")))'
# PostgreSQL's own headers raise -Wunused-parameter and -Wsign-compare.
PG_CFLAGS = -fvisibility=hidden -Wextra -Wno-unused-parameter -Wno-sign-compare \
	-Wno-missing-field-initializers -Wno-cast-function-type
SHLIB_LINK_INTERNAL = $(libpq)

# make DEBUG_POINTS=1: the points where the fault tests stop or kill a server
ifdef DEBUG_POINTS
PG_CPPFLAGS += -DDBSCALE_DEBUG_POINTS
endif

# One name a test, in the order in which they run; sql/NAME.sql.
REGRESS = $(shell cat sql/schedule 2>/dev/null)
REGRESS_OPTS = --inputdir=. --load-extension=postgres_fdw
ISOLATION = $(patsubst specs/%.spec,%,$(wildcard specs/*.spec))
ISOLATION_OPTS = --inputdir=. --load-extension=postgres_fdw --load-extension=dbscale
# They start servers of their own, which PostgreSQL refuses to root; what
# `make installcheck` runs as root is the rest.
ifneq ($(wildcard t/*.pl),)
ifneq ($(shell id -u),0)
TAP_TESTS = 1
endif
endif

PG_CONFIG ?= pg_config
PGXS := $(shell $(PG_CONFIG) --pgxs)
include $(PGXS)

$(OBJS): $(all_headers)

# The install script is its topics, in the order of their numbers.
dbscale--$(EXTVERSION).sql: $(sort $(wildcard src/sql/*.sql)) dbscale.control
	cat $(sort $(wildcard src/sql/*.sql)) > $@
