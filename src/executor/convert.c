/*
 * convert.c
 *		Values between this server and the nodes.
 *
 * Every value travels in text, by the type's own input and output functions, or
 * in binary.  Binary is used where all versions of PostgreSQL agree on the form
 * and both ends agree on the type: built-in scalar types, and arrays of those that
 * hold no text.  The most common ones are encoded right here.  Types whose binary
 * form carries OIDs (reg*, records) or depends on the client's encoding (text inside
 * other values) travel as text.
 *
 * Text that depends on settings (dates, intervals, floats, names) is written under
 * fixed ones: between dbscale_wire_enter and dbscale_wire_leave.
 */
#include "executor/internal.h"

#include "access/htup_details.h"
#include "access/sysattr.h"
#include "catalog/pg_type.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "port/pg_bswap.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/float.h"
#include "utils/guc.h"
#include "utils/jsonb.h"
#include "utils/lsyscache.h"
#include "utils/uuid.h"
#include "utils/xml.h"

/* The binary form of a built-in type; WIRE_TEXT for a type that has no safe one. */
static WireKind
binary_kind(Oid type)
{
	switch (type)
	{
		case BOOLOID:
		case CHAROID:
			return WIRE_FIXED1;
		case INT2OID:
			return WIRE_FIXED2;
		case INT4OID:
		case OIDOID:
		case DATEOID:
			return WIRE_FIXED4;
		case INT8OID:
		case TIMEOID:
		case TIMESTAMPOID:
		case TIMESTAMPTZOID:
		case CASHOID:
			return WIRE_FIXED8;
		case FLOAT4OID:
			return WIRE_FLOAT4;
		case FLOAT8OID:
			return WIRE_FLOAT8;
		case TEXTOID:
		case VARCHAROID:
		case BPCHAROID:
		case BYTEAOID:
		case JSONOID:
			return WIRE_BYTES;
		case UUIDOID:
			return WIRE_UUID;
		case JSONBOID:
			return WIRE_JSONB;
		case NUMERICOID:
		case INTERVALOID:
		case TIMETZOID:
		case BITOID:
		case VARBITOID:
		case INETOID:
		case CIDROID:
		case MACADDROID:
		case MACADDR8OID:
		case TIDOID:
			return WIRE_SEND;
		default:
			return WIRE_TEXT;
	}
}

/* Same for any type: domains are their base types, arrays of fixed types are sent. */
static WireKind
wire_kind(Oid type)
{
	WireKind	kind = binary_kind(type);
	Oid			element;

	/* most are of these, which takes no look into a catalog */
	if (kind != WIRE_TEXT)
		return kind;
	type = getBaseType(type);
	kind = binary_kind(type);
	if (kind != WIRE_TEXT)
		return kind;
	if (get_typtype(type) == TYPTYPE_ENUM)
		return WIRE_LABEL;
	if (type >= FirstGenbkiObjectId)
		return kind;
	element = get_element_type(type);
	if (OidIsValid(element))
	{
		kind = binary_kind(element);
		if (kind != WIRE_TEXT && kind != WIRE_JSONB && kind != WIRE_BYTES)
			return WIRE_SEND;
	}
	return WIRE_TEXT;
}

bool
dbscale_wire_is_binary(Oid type)
{
	return wire_kind(type) != WIRE_TEXT;
}

/* Is it written and read by functions of the type? */
static bool
uses_functions(WireKind kind)
{
	return kind == WIRE_TEXT || kind == WIRE_LABEL || kind == WIRE_JSONB || kind == WIRE_SEND;
}

void
dbscale_wire_init_writer(WireWriter *writer, Oid type, bool binary)
{
	Oid			function;
	bool		varlena;

	writer->kind = binary ? wire_kind(type) : WIRE_TEXT;
	writer->format = writer->kind == WIRE_TEXT ? 0 : 1;
	if (!uses_functions(writer->kind))
		return;
	if (writer->kind == WIRE_TEXT || writer->kind == WIRE_LABEL)
		getTypeOutputInfo(type, &function, &varlena);
	else
		getTypeBinaryOutputInfo(type, &function, &varlena);
	fmgr_info(function, &writer->function);
}

/* A domain checks its constraints in its own input functions. */
static WireKind
domain_kind(WireKind base_kind, Oid base_type)
{
	switch (base_kind)
	{
		case WIRE_TEXT:
		case WIRE_LABEL:
		case WIRE_JSONB:
			return base_kind;
		case WIRE_BYTES:
			return base_type == BYTEAOID ? WIRE_SEND : WIRE_LABEL;
		default:
			return WIRE_SEND;
	}
}

void
dbscale_wire_init_reader(WireReader *reader, Oid type, int32 typmod, bool binary)
{
	Oid			function;

	reader->kind = binary ? wire_kind(type) : WIRE_TEXT;
	reader->typmod = typmod;
	if (reader->kind != binary_kind(type) && get_typtype(type) == TYPTYPE_DOMAIN)
		reader->kind = domain_kind(reader->kind, getBaseType(type));
	if (!uses_functions(reader->kind))
		return;
	/* the binary form of these two is, or holds, text in the database's encoding */
	if (reader->kind == WIRE_TEXT || reader->kind == WIRE_LABEL || reader->kind == WIRE_JSONB)
		getTypeInputInfo(type, &function, &reader->ioparam);
	else
		getTypeBinaryInputInfo(type, &function, &reader->ioparam);
	fmgr_info(function, &reader->function);
}

/* Append an integer in network order; the compiler makes one store of it. */
#define APPEND_NETWORK(buf, type, value) \
	do { \
		type		n_ = (value); \
		appendBinaryStringInfo(buf, (char *) &n_, sizeof(n_)); \
	} while (0)

static void
append_varlena(StringInfo buf, Datum value)
{
	struct varlena *bytes = PG_DETOAST_DATUM_PACKED(value);

	appendBinaryStringInfo(buf, VARDATA_ANY(bytes), VARSIZE_ANY_EXHDR(bytes));
	if ((Pointer) bytes != DatumGetPointer(value))
		pfree(bytes);
}

/* A version byte and text; jsonb_send would convert it to the client's encoding. */
static void
append_jsonb(StringInfo buf, Datum value)
{
	Jsonb	   *jsonb = DatumGetJsonbP(value);

	appendStringInfoCharMacro(buf, 1);
	(void) JsonbToCString(buf, &jsonb->root, VARSIZE(jsonb));
	if ((Pointer) jsonb != DatumGetPointer(value))
		pfree(jsonb);
}

static void
append_float4(StringInfo buf, float4 value)
{
	uint32		bits;

	memcpy(&bits, &value, sizeof(bits));
	APPEND_NETWORK(buf, uint32, pg_hton32(bits));
}

static void
append_float8(StringInfo buf, float8 value)
{
	uint64		bits;

	memcpy(&bits, &value, sizeof(bits));
	APPEND_NETWORK(buf, uint64, pg_hton64(bits));
}

void
dbscale_wire_write(WireWriter *writer, StringInfo buf, Datum value)
{
	switch (writer->kind)
	{
		case WIRE_FIXED1:
			appendStringInfoCharMacro(buf, DatumGetChar(value));
			break;
		case WIRE_FIXED2:
			APPEND_NETWORK(buf, uint16, pg_hton16(DatumGetUInt16(value)));
			break;
		case WIRE_FIXED4:
			APPEND_NETWORK(buf, uint32, pg_hton32(DatumGetUInt32(value)));
			break;
		case WIRE_FIXED8:
			APPEND_NETWORK(buf, uint64, pg_hton64((uint64) DatumGetInt64(value)));
			break;
		case WIRE_FLOAT4:
			append_float4(buf, DatumGetFloat4(value));
			break;
		case WIRE_FLOAT8:
			append_float8(buf, DatumGetFloat8(value));
			break;
		case WIRE_BYTES:
			append_varlena(buf, value);
			break;
		case WIRE_UUID:
			appendBinaryStringInfo(buf, (char *) DatumGetUUIDP(value)->data, UUID_LEN);
			break;
		case WIRE_JSONB:
			append_jsonb(buf, value);
			break;
		case WIRE_SEND:
			{
				bytea	   *bytes = SendFunctionCall(&writer->function, value);

				appendBinaryStringInfo(buf, VARDATA(bytes), VARSIZE(bytes) - VARHDRSZ);
				pfree(bytes);
				break;
			}
		case WIRE_LABEL:
		case WIRE_TEXT:
			{
				char	   *text = OutputFunctionCall(&writer->function, value);

				appendStringInfoString(buf, text);
				pfree(text);
				break;
			}
	}
}

static void
check_length(int length, int expected)
{
	if (length != expected)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_BINARY_REPRESENTATION),
				 errmsg("a node sent %d bytes where %d were expected", length, expected),
				 errhint("The column's type on the node differs from the type here.")));
}

static uint64
read_network(const char *value, int length, int expected)
{
	uint16		n16;
	uint32		n32;
	uint64		n64;

	check_length(length, expected);
	switch (expected)
	{
		case 2:
			memcpy(&n16, value, 2);
			return pg_ntoh16(n16);
		case 4:
			memcpy(&n32, value, 4);
			return pg_ntoh32(n32);
		default:
			memcpy(&n64, value, 8);
			return pg_ntoh64(n64);
	}
}

static Datum
read_float4(const char *value, int length)
{
	uint32		bits = (uint32) read_network(value, length, 4);
	float4		result;

	memcpy(&result, &bits, sizeof(result));
	return Float4GetDatum(result);
}

static Datum
read_float8(const char *value, int length)
{
	uint64		bits = read_network(value, length, 8);
	float8		result;

	memcpy(&result, &bits, sizeof(result));
	return Float8GetDatum(result);
}

static Datum
read_uuid(const char *value, int length)
{
	pg_uuid_t  *uuid = palloc(sizeof(pg_uuid_t));

	check_length(length, UUID_LEN);
	memcpy(uuid->data, value, UUID_LEN);
	return UUIDPGetDatum(uuid);
}

/* The receive function wants a StringInfo of its own, ended by a zero byte. */
static Datum
receive(WireReader *reader, const char *value, int length)
{
	StringInfoData buf;
	Datum		result;

	initStringInfo(&buf);
	appendBinaryStringInfo(&buf, value, length);
	result = ReceiveFunctionCall(&reader->function, &buf, reader->ioparam, reader->typmod);
	pfree(buf.data);
	return result;
}

Datum
dbscale_wire_read(WireReader *reader, const char *value, int length)
{
	switch (reader->kind)
	{
		case WIRE_FIXED1:
			check_length(length, 1);
			return CharGetDatum(*value);
		case WIRE_FIXED2:
			return Int16GetDatum((int16) read_network(value, length, 2));
		case WIRE_FIXED4:
			return Int32GetDatum((int32) read_network(value, length, 4));
		case WIRE_FIXED8:
			return Int64GetDatum((int64) read_network(value, length, 8));
		case WIRE_FLOAT4:
			return read_float4(value, length);
		case WIRE_FLOAT8:
			return read_float8(value, length);
		case WIRE_BYTES:
			return PointerGetDatum(cstring_to_text_with_len(value, length));
		case WIRE_UUID:
			return read_uuid(value, length);
		case WIRE_JSONB:
			if (length < 1)
				check_length(length, 1);
			if (*value != 1)
				ereport(ERROR,
						(errcode(ERRCODE_INVALID_BINARY_REPRESENTATION),
						 errmsg("a node sent jsonb of version %d, and only version 1 is known", *value)));
			return InputFunctionCall(&reader->function, pnstrdup(value + 1, length - 1),
									 reader->ioparam, reader->typmod);
		case WIRE_LABEL:
			return InputFunctionCall(&reader->function, pnstrdup(value, length),
									 reader->ioparam, reader->typmod);
		case WIRE_SEND:
			return receive(reader, value, length);
		case WIRE_TEXT:
			break;
	}
	return InputFunctionCall(&reader->function, unconstify(char *, value),
							 reader->ioparam, reader->typmod);
}

static void
set_option(const char *name, const char *value)
{
	(void) set_config_option(name, value, PGC_USERSET, PGC_S_SESSION,
							 GUC_ACTION_SAVE, true, 0, false);
}

int
dbscale_wire_enter(void)
{
	int			nestlevel = NewGUCNestLevel();

	if (DateStyle != USE_ISO_DATES)
		set_option("datestyle", "ISO");
	if (IntervalStyle != INTSTYLE_POSTGRES)
		set_option("intervalstyle", "postgres");
	if (extra_float_digits < 3)
		set_option("extra_float_digits", "3");
	/* regclass and its like then print qualified names */
	set_option("search_path", "pg_catalog");
	return nestlevel;
}

void
dbscale_wire_leave(int nestlevel)
{
	AtEOXact_GUC(true, nestlevel);
}

ParamSet *
dbscale_params_create(int count, const Oid *types, bool binary)
{
	ParamSet   *set = palloc0(sizeof(ParamSet));

	set->count = count;
	set->writers = palloc(sizeof(WireWriter) * Max(count, 1));
	set->offsets = palloc(sizeof(int) * Max(count, 1));
	set->values = palloc(sizeof(char *) * Max(count, 1));
	set->lengths = palloc(sizeof(int) * Max(count, 1));
	set->formats = palloc(sizeof(int) * Max(count, 1));
	initStringInfo(&set->buf);
	for (int i = 0; i < count; i++)
	{
		dbscale_wire_init_writer(&set->writers[i], types[i], binary);
		set->formats[i] = set->writers[i].format;
		if (set->formats[i] == 0)
			set->has_text = true;
	}
	set->params.count = count;
	set->params.values = set->values;
	set->params.lengths = set->lengths;
	set->params.formats = set->formats;
	return set;
}

const RemoteParams *
dbscale_params_set(ParamSet *set, const Datum *values, const bool *nulls)
{
	int			nestlevel = set->has_text ? dbscale_wire_enter() : 0;

	resetStringInfo(&set->buf);
	for (int i = 0; i < set->count; i++)
	{
		set->offsets[i] = nulls[i] ? -1 : set->buf.len;
		if (nulls[i])
			continue;
		dbscale_wire_write(&set->writers[i], &set->buf, values[i]);
		set->lengths[i] = set->buf.len - set->offsets[i];
		appendStringInfoCharMacro(&set->buf, '\0');
	}
	/* only now does the buffer stay where it is */
	for (int i = 0; i < set->count; i++)
		set->values[i] = nulls[i] ? NULL : set->buf.data + set->offsets[i];
	if (set->has_text)
		dbscale_wire_leave(nestlevel);
	return &set->params;
}

static bool
all_binary(TupleDesc desc, List *retrieved_attrs)
{
	ListCell   *lc;

	foreach(lc, retrieved_attrs)
	{
		int			attno = lfirst_int(lc);

		if (attno > 0 && !dbscale_wire_is_binary(TupleDescAttr(desc, attno - 1)->atttypid))
			return false;
	}
	return true;
}

RowReader *
dbscale_row_reader_create(TupleDesc desc, List *retrieved_attrs, bool allow_binary,
						  const char *label)
{
	RowReader  *reader = palloc0(sizeof(RowReader));
	ListCell   *lc;

	reader->desc = desc;
	reader->label = label;
	reader->attnos = palloc(sizeof(AttrNumber) * Max(list_length(retrieved_attrs), 1));
	reader->readers = palloc0(sizeof(WireReader) * Max(list_length(retrieved_attrs), 1));
	reader->values = palloc0(sizeof(Datum) * Max(desc->natts, 1));
	reader->nulls = palloc(sizeof(bool) * Max(desc->natts, 1));
	reader->binary = allow_binary && all_binary(desc, retrieved_attrs);
	foreach(lc, retrieved_attrs)
	{
		int			attno = lfirst_int(lc);
		WireReader *wire = &reader->readers[reader->nfields];

		reader->attnos[reader->nfields++] = attno;
		if (attno == SelfItemPointerAttributeNumber)
			dbscale_wire_init_reader(wire, TIDOID, -1, reader->binary);
		else
		{
			Form_pg_attribute att = TupleDescAttr(desc, attno - 1);

			Assert(attno > 0);
			dbscale_wire_init_reader(wire, att->atttypid, att->atttypmod, reader->binary);
		}
	}
	return reader;
}

/* Error context: which column of which shard could not be read. */
static void
conversion_error_callback(void *arg)
{
	RowReader  *reader = arg;
	AttrNumber	attno = reader->attnos[reader->current];

	if (attno > 0)
		errcontext("column \"%s\" of a row from \"%s\"",
				   NameStr(TupleDescAttr(reader->desc, attno - 1)->attname), reader->label);
}

/* The columns of a tuple made here have no transaction; say so. */
static void
clear_system_columns(HeapTuple tuple)
{
	HeapTupleHeaderSetXmax(tuple->t_data, InvalidTransactionId);
	HeapTupleHeaderSetXmin(tuple->t_data, InvalidTransactionId);
	HeapTupleHeaderSetCmin(tuple->t_data, InvalidTransactionId);
}

/* The row's values, and its ctid if it was asked for. */
static ItemPointer
read_values(RowReader *reader, const RemoteRow *row)
{
	ErrorContextCallback context;
	ItemPointer ctid = NULL;

	context.callback = conversion_error_callback;
	context.arg = reader;
	context.previous = error_context_stack;
	error_context_stack = &context;

	memset(reader->nulls, true, reader->desc->natts);
	for (int i = 0; i < reader->nfields; i++)
	{
		AttrNumber	attno = reader->attnos[i];
		Datum		value;

		reader->current = i;
		if (row->values[i] == NULL)
			continue;
		value = dbscale_wire_read(&reader->readers[i], row->values[i], row->lengths[i]);
		if (attno == SelfItemPointerAttributeNumber)
			ctid = (ItemPointer) DatumGetPointer(value);
		else
		{
			reader->values[attno - 1] = value;
			reader->nulls[attno - 1] = false;
		}
	}
	error_context_stack = context.previous;
	return ctid;
}

/* Two settings change what text means to input functions; they are not the node's. */
static ItemPointer
read_values_as_sent(RowReader *reader, const RemoteRow *row)
{
	bool		save_nulls = Array_nulls;
	int			save_xml = xmloption;
	ItemPointer ctid;

	if (reader->binary || (Array_nulls && xmloption == XMLOPTION_CONTENT))
		return read_values(reader, row);
	PG_TRY();
	{
		Array_nulls = true;
		xmloption = XMLOPTION_CONTENT;
		ctid = read_values(reader, row);
	}
	PG_FINALLY();
	{
		Array_nulls = save_nulls;
		xmloption = save_xml;
	}
	PG_END_TRY();
	return ctid;
}

HeapTuple
dbscale_row_reader_tuple(RowReader *reader, const RemoteRow *row)
{
	ItemPointer ctid;
	HeapTuple	tuple;

	/* a statement that retrieves nothing sends one NULL, or no field at all */
	if (reader->nfields > 0 && row->nfields != reader->nfields)
		elog(ERROR, "a node sent %d columns where %d were expected",
			 row->nfields, reader->nfields);

	ctid = read_values_as_sent(reader, row);
	tuple = heap_form_tuple(reader->desc, reader->values, reader->nulls);
	if (ctid != NULL)
		tuple->t_self = tuple->t_data->t_ctid = *ctid;
	clear_system_columns(tuple);
	return tuple;
}
