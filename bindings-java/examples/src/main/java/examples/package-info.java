/** Programs that show one thing each; every one is a test. */
package examples;
